// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Which QEMUs the command line means.

#include <string>
#include <vector>

#include "core/failure.hpp"
#include "qmp/discovery.hpp"
#include "tools/vm-iowatch/options.hpp"

namespace vmwhy::vm_iowatch {

struct Target {
  qmp::QemuProcess process;
  /// The monitor to talk to; empty: none that is free.
  std::string monitor;
  std::string no_monitor;  ///< Why there is none.
};

/// Errors: a sentence that names what was not found, with the remedy.
Result<std::vector<Target>> find_targets(const Options& options);

}  // namespace vmwhy::vm_iowatch
