// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// --check: what can be seen on this host, and what to do about the rest.

#include <iosfwd>

#include "tools/qmp-pausewatch/options.hpp"

namespace vmwhy::qmp_pausewatch {

/// Prints the matrix: a table, or with --json the document vmwhy.check/1. Needs no root.
/// @return cli::kOk, or cli::kEnvironment where a VM was named that cannot be watched.
int run_check(const Options& options, std::ostream& out);

}  // namespace vmwhy::qmp_pausewatch
