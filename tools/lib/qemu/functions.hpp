// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The functions of QEMU that are followed: those that stop a VM or let it go on, set its run state, or see an
// error. Their names and first arguments have been the same since QEMU 2.x; where one is missing, or not
// exported, the others are followed all the same. In a build with static probes
// (--enable-trace-backends=dtrace) a function without a name may be followed by QEMU's trace event of the
// same name.

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace vmwhy::qemu {

/// What a function's arguments mean.
enum class Sense {
  none,
  run_state,         ///< The first: RunState.
  shutdown_cause,    ///< The first: ShutdownCause.
  migration_status,  ///< The second and third: MigrationStatus, old and new.
  block_error,       ///< The second to fourth: BlockErrorAction, whether it is a read, errno.
  block_names,       ///< The first ones point to names of device and node, in an order that changed.
  new_run_state,     ///< The third: RunState; the fourth points to its name.
  text,              ///< The first points to it.
};

struct Function {
  std::string_view name;
  Sense sense;
  bool with_stack;  ///< Its callers matter.
  /// What the arguments of the trace event of that name mean, which QEMU passes on each call; none: no such
  /// event.
  std::optional<Sense> event = std::nullopt;
};

std::span<const Function> functions();

}  // namespace vmwhy::qemu
