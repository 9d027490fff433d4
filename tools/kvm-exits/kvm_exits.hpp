// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The tool: finds the VMs, loads the probe, waits, reports.

#include <iosfwd>

#include "tools/kvm-exits/options.hpp"

namespace vmwhy::kvm_exits {

/// @return an exit code. Results go to `out`, everything else to `err`. SIGINT and SIGTERM end it cleanly; a
/// second
///         one kills.
int run(const Options& options, std::ostream& out, std::ostream& err);

}  // namespace vmwhy::kvm_exits
