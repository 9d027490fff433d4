// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// --then ACTION: what is to be done the moment a condition of --on is seen. Plain values.

#include <string>
#include <string_view>
#include <vector>

#include "core/failure.hpp"

namespace vmwhy::act {

struct Action {
  enum class Kind {
    exec,      ///< exec COMMAND…: by /bin/sh, not waited for.
    snapshot,  ///< A full collection of evidence into the trace.
    exit,      ///< The run ends.
  } kind = Kind::exec;
  std::string command;

  static Result<Action> parse(std::string_view text);
};

/// The action of each of so many --on: the n-th --then for the n-th, or the only one for all; `otherwise`
/// where there is no --then.
Result<std::vector<Action>> pair_actions(std::size_t conditions, const std::vector<std::string>& then,
                                         const Action& otherwise);

}  // namespace vmwhy::act
