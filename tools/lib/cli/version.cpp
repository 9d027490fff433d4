// SPDX-License-Identifier: BSD-2-Clause
#include "version.hpp"

#include "cli/cli.hpp"

namespace vmwhy::cli {

std::string version() {
  return VMWHY_VERSION " (" VMWHY_GIT_SHA ")";
}

std::string version_line(std::string_view tool) {
  return std::string(tool) + " of vmwhy " + version();
}

}  // namespace vmwhy::cli
