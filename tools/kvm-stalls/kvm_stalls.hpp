// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A run of kvm-stalls: probes, tables, stalls, trace. One thread, one io_context.

#include <iosfwd>

#include "tools/kvm-stalls/options.hpp"

namespace vmwhy::kvm_stalls {

/// @return the exit code.
int run(const Options& options, std::ostream& out, std::ostream& err);

}  // namespace vmwhy::kvm_stalls
