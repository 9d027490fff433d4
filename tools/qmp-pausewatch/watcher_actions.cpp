// SPDX-License-Identifier: BSD-2-Clause
// What a run does besides watching: the reproduction of --expect, and --on … --then ….
#include <ostream>

#include "clock/clock.hpp"
#include "tools/qmp-pausewatch/watcher.hpp"

namespace vmwhy::qmp_pausewatch {

void Watcher::start_command() {
  command_due_ = false;
  end_timer_.expires_after(options_.within);
  end_timer_.async_wait([this](const boost::system::error_code& error) {
    if (error || expect_code_) return;
    context_->say("'" + options_.expect->to_string() + "' did not come within the time");
    stop("the expected incident did not come");
  });
  if (options_.command.empty()) return;
  command_began_ns_ = clock::now_ns();
  auto command = act::Command::start(options_.command);
  if (!command) {
    context_->complain(to_string(command.error()));
    expect_code_ = kCannotTell;
    return stop("the command could not be run");
  }
  command_.emplace(std::move(*command));
}

void Watcher::watch_command() {
  if (!command_ || expect_code_) return;
  const auto status = command_->ended();
  // 125 is how a script tells git bisect that it could not try; what else it returns says nothing of the VM.
  // 127 is the shell's: no such command.
  if (!status || (*status != kCannotTell && *status != 127)) return;
  context_->complain("the command ended with " + std::to_string(*status) + ": nothing can be told");
  expect_code_ = kCannotTell;
  stop("the command could not try");
}

void Watcher::fire_matching(Condition::Kind kind, const std::string& name, VmWatch& vm) {
  for (std::size_t i = 0; i < options_.triggers.size(); ++i) {
    const Condition& condition = options_.triggers[i].condition;
    if (condition.kind == kind && condition.name == name) fire(i, &vm, vm.name());
  }
}

void Watcher::check_rtt(VmWatch& vm, std::uint64_t rtt_ns) {
  for (std::size_t i = 0; i < options_.triggers.size(); ++i) {
    const Condition& condition = options_.triggers[i].condition;
    if (condition.kind != Condition::Kind::rtt) continue;
    if (rtt_ns <= static_cast<std::uint64_t>(condition.above.count())) {
      // Only an answer shows that it is quick again; a question that still waits does not.
      if (vm.waiting_ns() == 0) slow_.erase({i, vm.id()});
      continue;
    }
    if (slow_.insert({i, vm.id()}).second) fire(i, &vm, vm.name());
  }
}

void Watcher::fire(std::size_t trigger, VmWatch* vm, const std::string& name) {
  if (stopping_) return;
  const Condition& condition = options_.triggers[trigger].condition;
  const Action& action = options_.triggers[trigger].action;
  context_->say(name + ": " + condition.to_string());
  switch (action.kind) {
    case Action::Kind::snapshot:
      if (vm) vm->collect();
      return;
    case Action::Kind::exit:
      return stop("'" + condition.to_string() + "' was seen");
    case Action::Kind::exec:
      break;
  }
  const std::string pid = vm && vm->pid() != 0 ? std::to_string(vm->pid()) : "";
  const auto started = executed_.start(action.command, {{"VMWHY_VM_NAME", name},
                                                        {"VMWHY_VM_PID", pid},
                                                        {"VMWHY_MONITOR", vm ? vm->monitor() : ""},
                                                        {"VMWHY_CONDITION", condition.to_string()},
                                                        {"VMWHY_TRACE", trace_path_}});
  if (!started) context_->complain(to_string(started.error()));
}

}  // namespace vmwhy::qmp_pausewatch
