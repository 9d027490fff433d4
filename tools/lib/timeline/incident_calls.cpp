// SPDX-License-Identifier: BSD-2-Clause
// What QEMU's own functions tell of pauses: the run state, at the moment at which it is set, and the pauses
// of which no monitor hears.
#include <algorithm>
#include <array>

#include "timeline/incidents.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::timeline {
namespace {

/// How far QEMU's stamp of an event may lie before what led to it, by the conversion of its clock.
constexpr std::uint64_t kStampError = kSecond / 50;
/// vm_stop sets the state at once where the VM runs.
constexpr std::uint64_t kAtOnce = kSecond;
constexpr std::size_t kMaxUnheard = 16;

bool stands_in(const std::string& state) {
  static constexpr std::array<std::string_view, 12> kStates = {
      "paused",    "io-error", "internal-error", "guest-panicked", "watchdog",    "debug",
      "suspended", "save-vm",  "restore-vm",     "finish-migrate", "postmigrate", "colo"};
  return std::find(kStates.begin(), kStates.end(), state) != kStates.end();
}

/// Somebody is connected to a monitor: the events of the VM are heard.
bool is_heard(const VmTracks& vm, bool by_peers) {
  return by_peers || std::any_of(vm.links.begin(), vm.links.end(), [](const auto& link) {
           return link.second.ready && link.second.closed_ns == 0;
         });
}

}  // namespace

std::string Incidents::state_set_at(const VmTracks& vm, std::uint64_t stop_ns) {
  const std::uint64_t last = stop_ns + kStampError;
  for (auto call = vm.calls.rbegin(); call != vm.calls.rend(); ++call)
    if (call->function == "runstate_set" && call->time_ns <= last)
      return stands_in(call->value) ? call->value : std::string();
  return {};
}

bool Incidents::is_same_stop(const Incident& pause, std::uint64_t stop_ns) {
  // Between the setting of the state and the event QEMU waits for its vCPUs, which may take its time; and the
  // setting of `running` would have ended this pause.
  return pause.trigger == kRunStateSet && stop_ns + kStampError >= pause.begin_ns;
}

bool Incidents::ran_before(const VmTracks& vm, const State& state, const QemuCall& call) {
  bool stopped = false;
  for (auto at = vm.calls.rbegin(); at != vm.calls.rend(); ++at) {
    if (&*at == &call || at->time_ns > call.time_ns) continue;
    if (at->function == "runstate_set") return at->value == "running";
    // It sets the state only where the VM runs, unlike vm_stop_force_state, or the end of a migration.
    stopped = stopped || (at->function == "vm_stop" && at->value == call.value && at->tid == call.tid &&
                          at->time_ns + kAtOnce >= call.time_ns);
  }
  const std::uint64_t ran = std::max(state.last_resume_ns, state.last_running_ns);
  return stopped || (ran != 0 && ran >= state.last_transition_ns);
}

void Incidents::on_running(const VmTracks& vm, State& state, const QemuCall& call, bool heard) {
  end_unheard(state, call.time_ns, kRunStateSet);
  Incident* pause = open_of(vm.id, Topic::pause);
  // Where events are heard, RESUME ends what STOP began.
  if (pause == nullptr || (heard && pause->trigger != kRunStateSet) || call.time_ns <= pause->begin_ns)
    return;
  state.last_transition_ns = std::max(state.last_transition_ns, call.time_ns);
  state.last_resume_ns = std::max(state.last_resume_ns, call.time_ns);
  close(*pause, call.time_ns, kRunStateSet);
}

void Incidents::on_call(VmTracks& vm, const QemuCall& call, std::uint64_t now_ns) {
  if (call.function != "runstate_set" || vm.ended) return;
  State& state = states_[vm.id];
  const bool heard = is_heard(vm, !state.peers.empty());
  if (call.value == "running") return on_running(vm, state, call, heard);
  if (!stands_in(call.value)) return;
  if (Incident* pause = open_of(vm.id, Topic::pause)) {
    // The event came first: events and calls come by different ways.
    if (pause->run_state.empty() && call.time_ns <= pause->begin_ns + kStampError)
      pause->run_state = call.value;
    return;
  }
  if (call.time_ns < state.last_transition_ns) return;
  if (heard) {
    // The first state counts.
    const bool stands = !state.unheard.empty() && state.unheard.back().end_ns == 0;
    if (stands || state.unheard.size() >= kMaxUnheard || !ran_before(vm, state, call)) return;
    state.unheard.push_back({call.time_ns, 0, call.value, {}});
    ticking_.insert(vm.id);
    return;
  }
  const std::uint64_t since =
      std::max(state.last_resume_ns, call.time_ns - std::min(call.time_ns, kLookBack));
  state.last_transition_ns = call.time_ns;
  Incident& found = open(vm.id, Topic::pause, Kind::pause, kRunStateSet, call.time_ns, now_ns);
  found.earliest_ns = since;
  found.run_state = call.value;
}

void Incidents::forget_unheard(State& state, std::uint64_t stop_ns) {
  std::erase_if(state.unheard, [&](const UnheardStop& stop) {
    return stop.begin_ns <= stop_ns + kStampError &&
           (stop.end_ns == 0 || stop_ns <= stop.end_ns + kStampError);
  });
}

void Incidents::end_unheard(State& state, std::uint64_t end_ns, const char* ended_by) {
  if (state.unheard.empty()) return;
  UnheardStop& last = state.unheard.back();
  // RESUME says more than the function does, and is made just before it runs.
  if (end_ns <= last.begin_ns || (last.end_ns != 0 && end_ns > last.end_ns)) return;
  last.end_ns = end_ns;
  last.ended_by = ended_by;
}

void Incidents::settle_unheard(const VmTracks& vm, State& state, std::uint64_t before_ns,
                               std::uint64_t now_ns) {
  while (!state.unheard.empty() && state.unheard.front().begin_ns < before_ns) {
    const UnheardStop stop = std::move(state.unheard.front());
    state.unheard.pop_front();
    const char* event = stop.run_state == "suspended" ? "SUSPEND" : "STOP";
    const std::uint64_t begin = stop.begin_ns;
    const std::uint64_t until = stop.end_ns != 0 ? stop.end_ns + kStampError : UINT64_MAX;
    const bool told = vm.first_event(event, begin - std::min(begin, kStampError), until) != nullptr;
    if (told || open_of(vm.id, Topic::pause) != nullptr) continue;
    Incident& found = open(vm.id, Topic::pause, Kind::pause, kRunStateSet, begin, now_ns);
    if (state.last_resume_ns < begin)
      found.earliest_ns = std::max(state.last_resume_ns, begin - std::min(begin, kLookBack));
    found.run_state = stop.run_state;
    state.last_transition_ns = std::max(state.last_transition_ns, begin);
    if (stop.end_ns == 0) continue;
    state.last_transition_ns = std::max(state.last_transition_ns, stop.end_ns);
    state.last_resume_ns = std::max(state.last_resume_ns, stop.end_ns);
    close(found, stop.end_ns, stop.ended_by);
  }
}

}  // namespace vmwhy::timeline
