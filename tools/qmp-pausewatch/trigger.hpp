// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// --on CONDITION --then ACTION: what a user wants to be done the moment something is seen. Plain values.

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "act/action.hpp"
#include "core/failure.hpp"

namespace vmwhy::qmp_pausewatch {

struct Condition {
  enum class Kind {
    run_state,  ///< runstate=io-error: query-status says so, and did not before.
    rtt,        ///< qmp-rtt>2s: a QMP round trip takes longer.
    event,      ///< event=NAME.
    cause,      ///< cause=NAME: an incident is reported with this cause.
  } kind = Kind::event;
  std::string name;
  std::chrono::nanoseconds above{0};

  static Result<Condition> parse(std::string_view text);
  std::string to_string() const;
};

using act::Action;

struct Trigger {
  Condition condition;
  Action action;
};

/// Pairs the values of --on and --then: the n-th with the n-th, or all with the only --then; without any
/// --then the action is snapshot.
Result<std::vector<Trigger>> pair_triggers(const std::vector<std::string>& on,
                                           const std::vector<std::string>& then);

}  // namespace vmwhy::qmp_pausewatch
