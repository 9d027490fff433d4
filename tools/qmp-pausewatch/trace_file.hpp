// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The trace of a run: its name where the user gave none, and what it says of the run.

#include <boost/json/object.hpp>
#include <string>
#include <vector>

#include "tools/qmp-pausewatch/options.hpp"
#include "tools/qmp-pausewatch/targets.hpp"

namespace vmwhy::qmp_pausewatch {

/// "vmwhy-NAME-20261123T001327Z.vmt": the VM's name, or "all", or "3-vms".
std::string default_trace_name(const Options& options, const std::vector<Target>& targets);

/// Tool, arguments, host and marks.
boost::json::object trace_meta(const Options& options);

}  // namespace vmwhy::qmp_pausewatch
