// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The commands that a watcher may send: those that change nothing in QEMU.

#include <boost/json/object.hpp>
#include <string_view>

namespace vmwhy::qmp::proto {

/// Whether `command` is on the list. What is not listed is refused, also commands of newer QEMUs: being
/// called query-… is no promise.
bool on_allow_list(std::string_view command);

/// The same of a command with its arguments. Lets through one command more: human-monitor-command with
/// exactly "info mtree" or "info mtree -f", which print QEMU's table of memory regions, and nothing beside.
bool on_allow_list(std::string_view command, const boost::json::object& arguments);

}  // namespace vmwhy::qmp::proto
