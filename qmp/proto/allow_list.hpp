// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The commands that a watcher may send: those that change nothing in QEMU.

#include <string_view>

namespace vmwhy::qmp::proto {

/// Whether `command` is on the list. What is not listed is refused, also commands of newer QEMUs: being
/// called query-… is no promise.
bool on_allow_list(std::string_view command);

}  // namespace vmwhy::qmp::proto
