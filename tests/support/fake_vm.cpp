// SPDX-License-Identifier: BSD-2-Clause
#include "fake_vm.hpp"

#include <boost/json/array.hpp>
#include <utility>

namespace vmwhy::test {

FakeVm::FakeVm(const std::string& path, std::string name)
    : name_(std::move(name)), server_(path, [this](Peer& peer) { serve(peer); }) {}

void FakeVm::pause(const std::string& state) {
  const std::lock_guard lock(mutex_);
  next_ = state;
}

void FakeVm::resume() {
  const std::lock_guard lock(mutex_);
  next_ = "running";
}

std::vector<std::string> FakeVm::commands() const {
  const std::lock_guard lock(mutex_);
  return commands_;
}

void FakeVm::serve(Peer& peer) {
  if (vanish_ || !peer.negotiate()) return;
  while (const auto line = peer.read_line())
    if (!answer(peer, *line)) return;
}

bool FakeVm::answer(Peer& peer, const std::string& line) {
  namespace json = boost::json;
  const std::string command = command_name(line);
  const std::lock_guard lock(mutex_);
  commands_.push_back(command);
  if (command == "query-status") {
    if (vanish_) return false;
    if (stalled_) return true;
    if (migrates_.exchange(false)) {
      throttle_ = 20;
      peer.event("MIGRATION", {{"status", "active"}});
    }
    if (!next_.empty() && next_ != state_) {
      state_ = next_;
      peer.event(state_ == "running" ? "RESUME" : "STOP");
    }
    return peer.reply(
        line, json::object{{"running", state_ == "running"}, {"singlestep", false}, {"status", state_}});
  }
  if (command == "query-name") return peer.reply(line, json::object{{"name", name_}});
  if (command == "query-uuid")
    return peer.reply(line, json::object{{"UUID", "00000000-0000-0000-0000-000000000000"}});
  if (command == "query-migrate" && throttle_ != 0)
    return peer.reply(
        line, json::object{{"status", "active"}, {"cpu-throttle-percentage", std::exchange(throttle_, 60)}});
  if (command == "query-migrate") return peer.reply(line, json::object{});
  if (command.starts_with("query-")) return peer.reply(line, json::array{});
  return peer.reply_error(line, "CommandNotFound", "The command " + command + " has not been found");
}

}  // namespace vmwhy::test
