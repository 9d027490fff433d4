// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The tool: finds the VMs, learns what lies under their block nodes, and shows the map, or watches.

#include <iosfwd>

#include "tools/vm-iowatch/options.hpp"

namespace vmwhy::vm_iowatch {

/// @return an exit code. Results go to `out`, everything else to `err`. SIGINT and SIGTERM end it cleanly; a
/// second one kills.
int run(const Options& options, std::ostream& out, std::ostream& err);

}  // namespace vmwhy::vm_iowatch
