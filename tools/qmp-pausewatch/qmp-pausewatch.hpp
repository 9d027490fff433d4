// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// qmp-pausewatch: watches VMs, and says why they pause, stall or end.

#include <iosfwd>

#include "tools/qmp-pausewatch/options.hpp"

namespace vmwhy::qmp_pausewatch {

/// Forks a helper process: call it before the process has threads.
/// @param out  Reports. @param err  Everything else.
/// @return the exit code.
int run(const Options& options, std::ostream& out, std::ostream& err);

}  // namespace vmwhy::qmp_pausewatch
