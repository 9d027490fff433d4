// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The tool: finds the VMs, listens, prints, sums up.

#include <iosfwd>

#include "tools/qmp-tap/options.hpp"

namespace vmwhy::qmp_tap {

/// @return an exit code. Results go to `out`, everything else to `err`. SIGINT and SIGTERM end it cleanly; a
/// second one kills.
int run(const Options& options, std::ostream& out, std::ostream& err);

}  // namespace vmwhy::qmp_tap
