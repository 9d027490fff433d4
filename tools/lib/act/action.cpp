// SPDX-License-Identifier: BSD-2-Clause
#include "act/action.hpp"

#include <cerrno>

#include "core/text.hpp"

namespace vmwhy::act {

Result<Action> Action::parse(std::string_view text) {
  if (text == "snapshot") return Action{Kind::snapshot, {}};
  if (text == "exit") return Action{Kind::exit, {}};
  if (text.starts_with("exec ") && !trim(text.substr(5)).empty())
    return Action{Kind::exec, std::string(trim(text.substr(5)))};
  return system_failure(EINVAL, "--then " + printable(text), "actions are 'exec COMMAND', snapshot and exit");
}

Result<std::vector<Action>> pair_actions(std::size_t conditions, const std::vector<std::string>& then,
                                         const Action& otherwise) {
  if (conditions == 0 && !then.empty())
    return system_failure(EINVAL, "--then without --on", "say when: --on CONDITION --then ACTION");
  if (then.size() > 1 && then.size() != conditions)
    return system_failure(EINVAL, "as many --then as --on are needed, or one for all",
                          "give each --on its --then");
  std::vector<Action> out(conditions, otherwise);
  for (std::size_t i = 0; i < conditions && !then.empty(); ++i) {
    auto action = Action::parse(then[then.size() == 1 ? 0 : i]);
    if (!action) return action.error();
    out[i] = std::move(*action);
  }
  return out;
}

}  // namespace vmwhy::act
