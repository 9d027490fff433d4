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
/// Between the setting of the state and the STOP event QEMU waits for its vCPUs.
constexpr std::uint64_t kStopFollows = 5 * kSecond;

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
  return pause.trigger == kRunStateSet && stop_ns + kStampError >= pause.begin_ns &&
         stop_ns <= pause.begin_ns + kStopFollows;
}

void Incidents::on_call(VmTracks& vm, const QemuCall& call, std::uint64_t now_ns) {
  if (call.function != "runstate_set" || vm.ended) return;
  State& state = states_[vm.id];
  Incident* pause = open_of(vm.id, Topic::pause);
  const bool heard = is_heard(vm, !state.peers.empty());
  if (call.value == "running") {
    if (pause == nullptr || heard || call.time_ns <= pause->begin_ns) return;
    state.last_transition_ns = std::max(state.last_transition_ns, call.time_ns);
    state.last_resume_ns = std::max(state.last_resume_ns, call.time_ns);
    return close(*pause, call.time_ns, kRunStateSet);
  }
  if (!stands_in(call.value)) return;
  if (pause != nullptr) {
    // The event came first: events and calls come by different ways.
    if (pause->run_state.empty() && call.time_ns <= pause->begin_ns + kStampError)
      pause->run_state = call.value;
    return;
  }
  if (heard || call.time_ns < state.last_transition_ns) return;
  const std::uint64_t since =
      std::max(state.last_resume_ns, call.time_ns - std::min(call.time_ns, kLookBack));
  state.last_transition_ns = call.time_ns;
  Incident& found = open(vm.id, Topic::pause, Kind::pause, kRunStateSet, call.time_ns, now_ns);
  found.earliest_ns = since;
  found.run_state = call.value;
}

}  // namespace vmwhy::timeline
