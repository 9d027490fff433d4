// SPDX-License-Identifier: BSD-2-Clause
// Stalls, lost monitors, and what time alone closes.
#include <algorithm>

#include "timeline/incidents.hpp"
#include "timeline/thread_topic.hpp"
#include "timeline/windows.hpp"
#include "trace/waits.hpp"

namespace vmwhy::timeline {
namespace {

/// Repeated facts of one sort are one incident, which only time closes.
constexpr Topic kFolded[] = {Topic::guest_event,      Topic::memory_failure, Topic::io_reported,
                             Topic::migration_failed, Topic::kvm_failure,    Topic::exit_storm,
                             Topic::storage_slow,     Topic::thread_waits,   Topic::thread_throttled,
                             Topic::thread_memory,    Topic::thread_blocked, Topic::thread_busy};

}  // namespace

void Incidents::set_stall(std::uint32_t vm, StallReason reason, std::string trigger, std::uint64_t begin_ns,
                          std::uint64_t now_ns) {
  Incident* stall = open_of(vm, Topic::stall);
  if (stall == nullptr) stall = &open(vm, Topic::stall, Kind::stall, std::move(trigger), begin_ns, now_ns);
  stall->reasons |= reason;
  stall->all_reasons |= reason;
  stall->begin_ns = std::min(stall->begin_ns, begin_ns);
  stall->last_ns = now_ns;
}

void Incidents::clear_stall(std::uint32_t vm, unsigned reasons, std::uint64_t end_ns, const char* ended_by) {
  Incident* stall = open_of(vm, Topic::stall);
  if (stall == nullptr || (stall->reasons & reasons) == 0) return;
  stall->reasons &= ~reasons;
  if (stall->reasons == 0) close(*stall, end_ns, ended_by);
}

void Incidents::on_reply(const VmTracks& vm, const QmpFact& fact, std::uint64_t now_ns) {
  State& state = states_[vm.id];
  auto overdue = state.overdue.find(fact.link);
  if (overdue != state.overdue.end() && fact.sent_ns >= overdue->second) {
    state.overdue.erase(overdue);
    if (state.overdue.empty()) clear_stall(vm.id, kNoReply, now_ns, "the overdue reply came");
  }
  // Who answers a question that was asked after the last look is neither stopped nor frozen.
  if (fact.sent_ns > state.stopped_seen_ns)
    clear_stall(vm.id, kStopped | kFrozen, now_ns, "QEMU answers again");
}

void Incidents::on_link(const VmTracks& vm, const LinkChange& change) {
  if (vm.ended) return;
  State& state = states_[vm.id];
  const std::uint64_t began = change.time_ns - std::min(change.time_ns, change.waited_ns);
  switch (change.state) {
    case trace::QmpLinkState::ready:
      if (state.closed_ns != 0) {
        Incident& lost =
            open(vm.id, Topic::monitor_lost, Kind::event, "monitor closed", state.closed_ns, change.time_ns);
        close(lost, change.time_ns, "connected again");
        state.closed_ns = 0;
      } else if (Incident* lost = open_of(vm.id, Topic::monitor_lost)) {
        close(*lost, change.time_ns, "connected again");
      }
      state.overdue.erase(change.link);
      clear_stall(vm.id, kNoGreeting, change.time_ns, "QEMU greets again");
      if (state.overdue.empty()) clear_stall(vm.id, kNoReply, change.time_ns, "QEMU answers again");
      return;
    case trace::QmpLinkState::reply_overdue:
      if (state.overdue.size() < kMaxLinks) state.overdue.emplace(change.link, began);
      set_stall(vm.id, kNoReply, "reply overdue", began, change.time_ns);
      return;
    case trace::QmpLinkState::reply_late:
      state.overdue.erase(change.link);
      if (state.overdue.empty()) clear_stall(vm.id, kNoReply, change.time_ns, "the overdue reply came");
      return;
    case trace::QmpLinkState::connect_timeout:
    case trace::QmpLinkState::greeting_missing:
    case trace::QmpLinkState::negotiation_timeout: {
      const bool held = std::any_of(vm.monitors.begin(), vm.monitors.end(), [&](const Monitor& monitor) {
        return monitor.held && monitor.address == change.address;
      });
      if (!held) set_stall(vm.id, kNoGreeting, "no greeting", began, change.time_ns);
      return;
    }
    case trace::QmpLinkState::closed: {
      const auto link = vm.links.find(change.link);
      if (link != vm.links.end() && link->second.closed_ns == change.time_ns) {
        state.closed_ns = change.time_ns;
        ticking_.insert(vm.id);
      }
      state.overdue.erase(change.link);
      if (state.overdue.empty()) clear_stall(vm.id, kNoReply, change.time_ns, "the monitor closed");
      return;
    }
    case trace::QmpLinkState::refused:
    case trace::QmpLinkState::not_qmp:
    case trace::QmpLinkState::held:
      return;
  }
}

void Incidents::on_vm_seen(const VmTracks& vm, std::uint64_t now_ns) {
  State& state = states_[vm.id];
  std::uint32_t holder = 0;
  for (const Monitor& monitor : vm.monitors)
    if (monitor.held) holder = std::max<std::uint32_t>(monitor.held_by_pid, 1);
  // What a tap heard of it tells more.
  const bool heard = std::any_of(vm.peers.begin(), vm.peers.end(),
                                 [&](const Peer& peer) { return peer.peer.pid == state.holder_pid; });
  if (state.holder_pid != 0 && holder == 0 && !heard && !vm.ended &&
      open_of(vm.id, Topic::monitor_lost) == nullptr)
    close(open(vm.id, Topic::monitor_lost, Kind::event, "holder gone", now_ns, now_ns), now_ns, "", true);
  state.holder_pid = holder;
}

void Incidents::on_client_back(const VmTracks& vm, std::uint64_t time_ns) {
  State& state = states_[vm.id];
  if (state.client_gone_ns != 0)
    open(vm.id, Topic::monitor_lost, Kind::event, "client gone", std::exchange(state.client_gone_ns, 0),
         time_ns);
  Incident* lost = open_of(vm.id, Topic::monitor_lost);
  if (lost != nullptr && lost->trigger == "client gone") close(*lost, time_ns, "connected again");
}

// What a tap tells of other clients.
void Incidents::on_peer(const VmTracks& vm, const Peer& peer) {
  if (vm.ended) return;
  State& state = states_[vm.id];
  const std::uint32_t link = peer.peer.link;
  switch (peer.state()) {
    case trace::QmpPeerState::connected:
      if (state.peers.size() < kMaxLinks) state.peers[link] = peer.time_ns;
      return on_client_back(vm, peer.time_ns);
    case trace::QmpPeerState::closed: {
      const auto since = state.peers.find(link);
      const bool lasting = since != state.peers.end() && peer.time_ns >= since->second + kLastingClient;
      if (since != state.peers.end()) state.peers.erase(since);
      state.blocked.erase(link);
      if (!lasting || open_of(vm.id, Topic::monitor_lost) != nullptr) return;
      state.client_gone_ns = peer.time_ns;
      ticking_.insert(vm.id);
      return;
    }
    case trace::QmpPeerState::ended:
      state.peers.erase(link);
      state.blocked.erase(link);
      return;
    case trace::QmpPeerState::blocked:
      if (state.blocked.size() < kMaxLinks) state.blocked.emplace(link, peer.time_ns);
      ticking_.insert(vm.id);
      return;
    case trace::QmpPeerState::flowing: {
      state.blocked.erase(link);
      Incident* lost = open_of(vm.id, Topic::monitor_lost);
      if (lost != nullptr && lost->trigger == "client does not read")
        close(*lost, peer.time_ns, "it reads again");
      return;
    }
  }
}

void Incidents::on_process(const VmTracks& vm, const Process& process) {
  if (vm.ended) return;
  const char letter = static_cast<char>(process.state.state);
  if (letter == 'T' || letter == 't') {
    states_[vm.id].stopped_seen_ns = process.time_ns;
    set_stall(vm.id, kStopped, letter == 't' ? "tracing stop" : "stopped", process.time_ns, process.time_ns);
  } else if (letter != '\0') {
    clear_stall(vm.id, kStopped, process.time_ns, "the process runs again");
  }
}

void Incidents::on_cgroup(const VmTracks& vm, const Cgroup& cgroup) {
  if (vm.ended) return;
  const auto freezer = static_cast<trace::FreezerState>(cgroup.state.freezer);
  if (freezer == trace::FreezerState::frozen) {
    states_[vm.id].stopped_seen_ns = cgroup.time_ns;
    set_stall(vm.id, kFrozen, "cgroup frozen", cgroup.time_ns, cgroup.time_ns);
  } else if (freezer == trace::FreezerState::thawed) {
    clear_stall(vm.id, kFrozen, cgroup.time_ns, "the cgroup was thawed");
  }
}

void Incidents::on_thread(const VmTracks& vm, const Thread& thread) {
  if (vm.ended) return;
  State& state = states_[vm.id];
  const std::uint32_t tid = thread.state.tid;
  const char letter = static_cast<char>(thread.state.state);
  if (letter != 'D' && !(letter == 'S' && trace::is_fuse_wait(thread.wchan))) {
    state.in_d.erase(tid);
    if (state.hung.erase(tid) > 0 && state.hung.empty())
      clear_stall(vm.id, kHungThread, thread.time_ns, "the thread moves again");
    return;
  }
  auto last = state.in_d.find(tid);
  if (last == state.in_d.end()) {
    if (state.in_d.size() < 4096) state.in_d.emplace(tid, thread);
    return;
  }
  const bool moved = last->second.state.cpu_ns != thread.state.cpu_ns ||
                     last->second.state.switches != thread.state.switches;
  if (moved) {
    last->second = thread;
    if (state.hung.erase(tid) > 0 && state.hung.empty())
      clear_stall(vm.id, kHungThread, thread.time_ns, "the thread moves again");
    return;
  }
  if (thread.time_ns < last->second.time_ns + kHungApart) return;
  state.hung.insert(tid);
  state.hung_seen_ns = thread.time_ns;
  ticking_.insert(vm.id);
  set_stall(vm.id, kHungThread, letter == 'D' ? "thread in D" : "thread waits for FUSE", last->second.time_ns,
            thread.time_ns);
}

void Incidents::on_host_suspended(const std::map<std::uint32_t, VmTracks>& vms, const Suspend& suspend) {
  if (++host_suspends_ > kMaxSuspends) return;
  for (const auto& [id, vm] : vms) {
    // One that stood anyway lost nothing, and one that was not there yet neither.
    if (vm.ended || vm.seen_ns > suspend.before_ns || open_of(id, Topic::pause) != nullptr) continue;
    Incident& incident =
        open(id, Topic::host_suspended, Kind::stall, "host suspended", suspend.begin_ns(), suspend.time_ns);
    incident.last_ns = suspend.time_ns;
    close(incident, suspend.time_ns, "the host woke up");
  }
}

void Incidents::on_storage_link(const VmTracks& vm, const StorageLink& link) {
  if (vm.ended) return;
  auto& silent = states_[vm.id].silent;
  const std::pair key{link.address, link.link.socket};
  if (link.hangs()) {
    if (silent.size() < kMaxLinks) silent.insert(key);
    return set_stall(vm.id, kSilentServer, "storage server does not answer", link.silent_since_ns(),
                     link.time_ns);
  }
  if (silent.erase(key) != 0 && silent.empty())
    clear_stall(
        vm.id, kSilentServer, link.time_ns,
        link.connected() ? "the storage server answers again" : "the connection to the server is gone");
}

void Incidents::tick(const std::map<std::uint32_t, VmTracks>& vms, std::uint64_t now_ns) {
  for (auto at = ticking_.begin(); at != ticking_.end();) {
    const std::uint32_t id = *at;
    const auto vm = vms.find(id);
    if (vm == vms.end() || vm->second.ended) {
      at = ticking_.erase(at);
      continue;
    }
    State& state = states_[id];
    tick_vm(vm->second, state, now_ns);
    bool waits = state.closed_ns != 0 || state.client_gone_ns != 0 || !state.hung.empty() ||
                 !state.blocked.empty() || !state.unheard.empty();
    for (Topic topic : {Topic::pause_loop, Topic::reset_loop}) waits = waits || open_of(id, topic) != nullptr;
    for (Topic topic : kFolded) waits = waits || open_of(id, topic) != nullptr;
    at = waits ? std::next(at) : ticking_.erase(at);
  }
}

void Incidents::tick_vm(const VmTracks& vm, State& state, std::uint64_t now_ns) {
  settle_unheard(vm, state, now_ns - std::min(now_ns, kEventFollows), now_ns);
  if (state.closed_ns != 0 && now_ns > state.closed_ns + kEndGrace) {
    if (open_of(vm.id, Topic::monitor_lost) == nullptr)
      open(vm.id, Topic::monitor_lost, Kind::event, "monitor closed", state.closed_ns, now_ns);
    state.closed_ns = 0;
  }
  if (state.client_gone_ns != 0 && now_ns > state.client_gone_ns + kEndGrace) {
    if (open_of(vm.id, Topic::monitor_lost) == nullptr)
      open(vm.id, Topic::monitor_lost, Kind::event, "client gone", state.client_gone_ns, now_ns);
    state.client_gone_ns = 0;
  }
  for (const auto& [link, since] : state.blocked) {
    if (now_ns <= since + kClientHangs || open_of(vm.id, Topic::monitor_lost) != nullptr) continue;
    open(vm.id, Topic::monitor_lost, Kind::event, "client does not read", since, now_ns);
  }
  if (!state.hung.empty() && now_ns > state.hung_seen_ns + kHungForgotten) {
    state.hung.clear();
    state.in_d.clear();
    clear_stall(vm.id, kHungThread, now_ns, "no thread was seen hanging any more");
  }
  if (Incident* loop = open_of(vm.id, Topic::pause_loop); loop && now_ns > loop->last_ns + kPauseLoopQuiet) {
    const std::uint64_t stopped = std::exchange(state.folded_stop_ns, 0);
    close(*loop, loop->last_ns, stopped != 0 ? "it stayed paused" : "no further pause");
    state.error_pauses.clear();
    if (stopped != 0) {
      open(vm.id, Topic::pause, Kind::pause, "STOP", stopped, now_ns).earliest_ns =
          std::max(state.last_resume_ns, stopped - std::min(stopped, kLookBack));
    }
  }
  if (Incident* loop = open_of(vm.id, Topic::reset_loop); loop && now_ns > loop->last_ns + kResetLoopQuiet)
    close(*loop, loop->last_ns, "no further reset");
  for (Topic topic : kFolded) {
    Incident* event = open_of(vm.id, topic);
    const bool lasts = std::any_of(state.stalling.begin(), state.stalling.end(),
                                   [&](const auto& stall) { return stall.second == topic; });
    const std::uint64_t quiet = is_thread_topic(topic) ? kThreadQuiet : kEventQuiet;
    if (event != nullptr && !lasts && now_ns > event->last_ns + quiet)
      close(*event, event->last_ns, event->count > 1 ? "no more of it" : "", event->count == 1);
  }
}

}  // namespace vmwhy::timeline
