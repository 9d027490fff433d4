// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-stalls/reaction.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <csignal>

#include "core/text.hpp"

namespace vmwhy::kvm_stalls {
namespace {

std::optional<stalls::State> state_named(std::string_view name) {
  for (std::uint32_t i = 0; i < stalls::kStates; ++i)
    if (stalls::name_of(static_cast<stalls::State>(i)) == name) return static_cast<stalls::State>(i);
  return std::nullopt;
}

bool is_signal(std::string_view name) {
  for (int number = 1; number < NSIG; ++number)
    if (signal_name(number) == name) return true;
  return false;
}

}  // namespace

Result<Condition> Condition::parse(std::string_view text) {
  Condition out;
  if (text == "end") {
    out.kind = Kind::end;
    return out;
  }
  const std::size_t equals = text.find('=');
  const std::string_view key = text.substr(0, equals);
  const std::string_view name =
      equals == std::string_view::npos ? std::string_view() : text.substr(equals + 1);
  if (key == "stall") {
    out.kind = Kind::stall;
    out.state = state_named(name);
    if (out.state || name == "any") return out;
  } else if (key == "signal") {
    out.kind = Kind::signal;
    if (name == "any") return out;
    out.name = name;
    if (is_signal(name)) return out;
  }
  return system_failure(EINVAL, "--on " + printable(text),
                        "conditions are stall=STATE, stall=any, signal=SIGNAME, signal=any and end");
}

std::string Condition::to_string() const {
  switch (kind) {
    case Kind::stall:
      return "stall=" + std::string(state ? stalls::name_of(*state) : "any");
    case Kind::signal:
      return "signal=" + (name.empty() ? "any" : name);
    case Kind::end:
      return "end";
  }
  return {};
}

Result<std::vector<Reaction>> pair_reactions(const std::vector<std::string>& on,
                                             const std::vector<std::string>& then) {
  if (!on.empty() && then.empty())
    return system_failure(EINVAL, "--on without --then",
                          "say what is to be done: --then 'exec COMMAND' or --then exit");
  const auto actions = act::pair_actions(on.size(), then, {});
  if (!actions) return actions.error();
  std::vector<Reaction> out;
  for (std::size_t i = 0; i < on.size(); ++i) {
    auto condition = Condition::parse(on[i]);
    if (!condition) return condition.error();
    if ((*actions)[i].kind == act::Action::Kind::snapshot)
      return system_failure(EINVAL, "--then snapshot", "each stall is recorded here without it: see -o");
    out.push_back({std::move(*condition), (*actions)[i]});
  }
  return out;
}

void Reactions::on_stall(const stalls::Stall& stall, const std::string& vm_name) {
  const stalls::State state = stalls::greatest(stall.awake());
  for (const Reaction& reaction : reactions_) {
    if (reaction.condition.kind != Condition::Kind::stall) continue;
    if (!reaction.condition.state || *reaction.condition.state == state)
      fire(reaction, {stall.record.pid, vm_name, stalls::sentence(stall)});
  }
}

void Reactions::on_signal(const Signal& signal, const std::string& vm_name) {
  if (signal.record.what != static_cast<std::uint32_t>(trace::SignalWhat::sent)) return;
  for (const Reaction& reaction : reactions_) {
    const Condition& condition = reaction.condition;
    if (condition.kind != Condition::Kind::signal) continue;
    if (condition.name.empty() || condition.name == signal_name(signal.record.signal))
      fire(reaction, {signal.record.pid, vm_name, describe(signal)});
  }
}

void Reactions::on_end(std::uint32_t pid, const std::string& vm_name, const std::string& text) {
  for (const Reaction& reaction : reactions_)
    if (reaction.condition.kind == Condition::Kind::end) fire(reaction, {pid, vm_name, text});
}

void Reactions::fire(const Reaction& reaction, const What& what) {
  if (exit_wanted_) return;
  if (reaction.action.kind == act::Action::Kind::exit) {
    err_ << "kvm-stalls: '" << reaction.condition.to_string() << "' was seen\n";
    exit_wanted_ = true;
    return;
  }
  const auto started =
      commands_.start(reaction.action.command, {{"VMWHY_VM_NAME", what.vm_name},
                                                {"VMWHY_VM_PID", std::to_string(what.pid)},
                                                {"VMWHY_CONDITION", reaction.condition.to_string()},
                                                {"VMWHY_SUMMARY", what.text},
                                                {"VMWHY_TRACE", trace_}});
  if (!started) err_ << "kvm-stalls: " << printable(to_string(started.error())) << "\n";
}

}  // namespace vmwhy::kvm_stalls
