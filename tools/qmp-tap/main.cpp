// SPDX-License-Identifier: BSD-2-Clause
#include <iostream>

#include "tools/qmp-tap/qmp_tap.hpp"

namespace {

int body(int argc, char** argv) {
  using namespace vmwhy::qmp_tap;
  const Parsed parsed = parse_options(argc, argv, std::cout, std::cerr);
  return parsed.options ? run(*parsed.options, std::cout, std::cerr) : parsed.exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  return vmwhy::cli::guarded("qmp-tap", body, argc, argv);
}
