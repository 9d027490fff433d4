// SPDX-License-Identifier: BSD-2-Clause
#include <iostream>

#include "cli/cli.hpp"
#include "tools/vm-trace/vm_trace.hpp"

int main(int argc, char** argv) {
  return vmwhy::cli::guarded(
      "vm-trace",
      [](int count, char** arguments) {
        vmwhy::vm_trace::Options options;
        if (const auto code = vmwhy::vm_trace::parse(count, arguments, options, std::cout, std::cerr))
          return *code;
        return vmwhy::vm_trace::run(options, std::cout, std::cerr);
      },
      argc, argv);
}
