// SPDX-License-Identifier: BSD-2-Clause
#include <iostream>

#include "cli/cli.hpp"
#include "tools/qmp-call/qmp_call.hpp"

namespace {

int body(int argc, char** argv) {
  vmwhy::qmp_call::Options options;
  if (const auto code = vmwhy::qmp_call::parse_options(argc, argv, options, std::cout, std::cerr))
    return *code;
  return vmwhy::qmp_call::run(options, std::cout, std::cerr);
}

}  // namespace

int main(int argc, char** argv) {
  return vmwhy::cli::guarded("qmp-call", body, argc, argv);
}
