// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/trigger.hpp"

#include <cerrno>

#include "cli/cli.hpp"
#include "core/text.hpp"

namespace vmwhy::qmp_pausewatch {
namespace {

Failure bad(const std::string& what, const std::string& remedy) {
  return system_failure(EINVAL, what, remedy);
}

}  // namespace

Result<Condition> Condition::parse(std::string_view text) {
  const auto bad_condition = [&] {
    return bad("--on " + printable(text),
               "conditions are runstate=NAME, event=NAME, cause=NAME and qmp-rtt>DURATION");
  };
  Condition out;
  if (text.starts_with("qmp-rtt>")) {
    const auto above = cli::parse_duration(text.substr(8));
    if (!above || above->count() <= 0) return bad_condition();
    out.kind = Kind::rtt;
    out.above = *above;
    return out;
  }
  const auto equals = text.find('=');
  if (equals == std::string_view::npos || equals + 1 == text.size()) return bad_condition();
  const std::string_view key = text.substr(0, equals);
  out.name = text.substr(equals + 1);
  if (key == "runstate") {
    out.kind = Kind::run_state;
  } else if (key == "event") {
    out.kind = Kind::event;
  } else if (key == "cause") {
    out.kind = Kind::cause;
  } else {
    return bad_condition();
  }
  return out;
}

std::string Condition::to_string() const {
  switch (kind) {
    case Kind::run_state:
      return "runstate=" + name;
    case Kind::rtt:
      return "qmp-rtt>" + human_duration(above.count());
    case Kind::event:
      return "event=" + name;
    case Kind::cause:
      return "cause=" + name;
  }
  return {};
}

Result<std::vector<Trigger>> pair_triggers(const std::vector<std::string>& on,
                                           const std::vector<std::string>& then) {
  const auto actions = act::pair_actions(on.size(), then, Action{Action::Kind::snapshot, {}});
  if (!actions) return actions.error();
  std::vector<Trigger> out;
  for (std::size_t i = 0; i < on.size(); ++i) {
    auto condition = Condition::parse(on[i]);
    if (!condition) return condition.error();
    out.push_back({std::move(*condition), (*actions)[i]});
  }
  return out;
}

}  // namespace vmwhy::qmp_pausewatch
