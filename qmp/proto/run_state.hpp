// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// QEMU's run states by name. A state of a newer QEMU is `other`, and its text is kept.

#include <boost/json/value.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace vmwhy::qmp::proto {

enum class RunState {
  other,  ///< A name that is not in this list.
  debug,
  inmigrate,
  internal_error,
  io_error,
  paused,
  postmigrate,
  prelaunch,
  finish_migrate,
  restore_vm,
  running,
  save_vm,
  shutdown,
  suspended,
  watchdog,
  guest_panicked,
  colo,
};

RunState parse_run_state(std::string_view name);
/// QEMU's name, "" for `other`.
std::string_view to_string(RunState state);

/// The reply to query-status.
struct RunStatus {
  RunState state = RunState::other;
  std::string text;  ///< QEMU's name of it, whatever it is; untrusted.
  bool running = false;
};

/// Nothing if `reply` (the "return" member) has no "status" string.
std::optional<RunStatus> parse_run_status(const boost::json::value& reply);

}  // namespace vmwhy::qmp::proto
