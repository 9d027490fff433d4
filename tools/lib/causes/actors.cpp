// SPDX-License-Identifier: BSD-2-Clause
#include "causes/actors.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "timeline/windows.hpp"

namespace vmwhy::causes {
namespace {

std::string_view first_word(std::string_view line) {
  return line.substr(0, line.find(' '));
}

bool is_one_of(const timeline::Command& command, std::initializer_list<std::string_view> names) {
  if (!command.heard) return false;
  const std::string_view word =
      command.name == "human-monitor-command" ? first_word(command.line) : std::string_view(command.name);
  return std::find(names.begin(), names.end(), word) != names.end();
}

/// A client that stops a VM to save it begins to save it within this time.
constexpr std::uint64_t kSaveFollows = 10 * timeline::kSecond;

Act with_peer(const timeline::VmTracks& vm, const timeline::Command& command) {
  Act out{&command, nullptr};
  for (const timeline::Peer& peer : vm.peers) {
    if (peer.peer.link != command.link || peer.time_ns > command.time_ns) continue;
    const bool gone =
        peer.state() == trace::QmpPeerState::closed || peer.state() == trace::QmpPeerState::ended;
    // Monitors without a name share a number: with two clients, nobody can be told.
    const bool another = out.peer != nullptr && peer.monitor.empty() && out.peer->peer.pid != peer.peer.pid;
    if (!gone) out.peer = another ? nullptr : &peer;
    if (gone && out.peer != nullptr && out.peer->peer.pid == peer.peer.pid) out.peer = nullptr;
  }
  return out;
}

}  // namespace

std::string Act::who() const {
  return peer == nullptr ? "another client" : peer->to_string();
}

Evidence Act::evidence() const {
  std::string text = who();
  if (peer != nullptr && !peer->user.empty()) text += ", user " + peer->user + ",";
  text += " sent " + command->name;
  if (!command->line.empty()) text += " '" + command->line + "'";
  if (!command->id.empty()) text += " (id " + command->id + ")";
  if (peer != nullptr && !peer->monitor.empty()) text += " on " + peer->monitor;
  return {command->time_ns, "qmp", std::move(text)};
}

boost::json::object Act::details() const {
  boost::json::object out;
  out["sender"] = who();
  out["command"] = command->name;
  if (!command->line.empty()) out["argument"] = command->line;
  if (!command->id.empty()) out["command_id"] = command->id;
  if (peer == nullptr) return out;
  out["pid"] = peer->peer.pid;
  out["uid"] = peer->peer.uid;
  out["comm"] = peer->comm;
  out["command_line"] = peer->command_line;
  out["user"] = peer->user;
  if (!peer->container.empty()) out["container"] = peer->container;
  out["parents"] = peer->parents;
  out["monitor"] = peer->monitor;
  return out;
}

Act last_act(const timeline::VmTracks& vm, std::initializer_list<std::string_view> commands,
             std::uint64_t from, std::uint64_t until) {
  for (auto at = vm.commands.rbegin(); at != vm.commands.rend(); ++at)
    if (at->time_ns >= from && at->time_ns <= until && is_one_of(*at, commands)) return with_peer(vm, *at);
  return {};
}

Act first_act(const timeline::VmTracks& vm, std::initializer_list<std::string_view> commands,
              std::uint64_t from, std::uint64_t until) {
  for (const timeline::Command& command : vm.commands)
    if (command.time_ns >= from && command.time_ns <= until && is_one_of(command, commands))
      return with_peer(vm, command);
  return {};
}

Saving find_saving(const Case& c) {
  const std::initializer_list<std::string_view> savers = {"savevm", "loadvm", "snapshot-save",
                                                          "snapshot-load", "dump-guest-memory"};
  const std::initializer_list<std::string_view> states = {"",           "paused",         "save-vm",
                                                          "restore-vm", "finish-migrate", "postmigrate"};
  if (std::find(states.begin(), states.end(), c.run_state) == states.end()) return {};
  const Act stop = last_act(c.vm, {"stop"}, c.from, c.begin);
  const Act by_itself = last_act(c.vm, savers, c.from, c.begin);
  if (by_itself && (!stop || stop.command->time_ns < by_itself.command->time_ns)) return {{}, by_itself};
  if (!stop) return {};
  const std::uint64_t soon = std::min(c.until, c.begin + kSaveFollows);
  if (const Act saver = first_act(c.vm, savers, c.begin, soon)) return {stop, saver};
  const Act migrate = first_act(c.vm, {"migrate"}, c.begin, soon);
  if (!migrate) return {};
  const std::string& uri = migrate.command->line;
  const bool file = uri.starts_with("fd:") || uri.starts_with("exec:") || uri.starts_with("file:");
  return file ? Saving{stop, migrate} : Saving{};
}

bool tapped(const timeline::Timeline& timeline) {
  const auto found = timeline.host().sensors.find("tap");
  return found != timeline.host().sensors.end() && found->second.state == trace::SensorState::on;
}

std::string no_actor(const Case& c, std::string_view look_alikes) {
  if (!tapped(c.timeline)) return "QEMU names nobody: it needs the monitor tap" + std::string(look_alikes);
  return c.vm.unheard_bytes == 0 ? "no client of its QMP monitors was heard to ask for it: HMP, a gdb "
                                   "server, a signal, a monitor "
                                   "that is no socket or QEMU itself are left"
                                 : "the tap missed parts of what its clients said";
}

void name_actor(const Act& act, Finding& finding) {
  finding.details["sender"] = act.who();
  finding.details["sent_by"] = act.details();
  finding.evidence.push_back(act.evidence());
  if (act.peer == nullptr)
    finding.not_proved.push_back({"which client it was", "the tap could not tell who is at the other end"});
  if (act.peer == nullptr || act.peer->command_line.empty()) return;
  std::string text = fmt::format("{} runs: {}", act.who(), act.peer->command_line);
  if (!act.peer->container.empty()) text += ", in container " + act.peer->container;
  if (!act.peer->parents.empty()) text += "; started by " + act.peer->parents;
  finding.evidence.push_back({act.command->time_ns, "proc", std::move(text)});
}

}  // namespace vmwhy::causes
