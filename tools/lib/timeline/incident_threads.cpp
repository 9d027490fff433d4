// SPDX-License-Identifier: BSD-2-Clause
// Incidents that stalls of threads make.
#include <algorithm>

#include "timeline/incidents.hpp"
#include "timeline/thread_topic.hpp"

namespace vmwhy::timeline {
namespace {

/// The file may be a stranger's: sums of any numbers.
std::uint64_t add(std::uint64_t a, std::uint64_t b) {
  return a + std::min(b, UINT64_MAX - a);
}

}  // namespace

Topic topic_of(const trace::ThreadStall& stall) {
  const trace::ThreadTimes times = awake_times(stall);
  struct Sort {
    std::uint64_t ns;
    Topic topic;
  };
  const Sort sorts[] = {
      {add(times.stopped_ns, times.frozen_ns), Topic::stall},
      {times.throttled_ns, Topic::thread_throttled},
      {times.waiting_ns, Topic::thread_waits},
      {times.reclaim_ns, Topic::thread_memory},
      {add(times.lock_ns, add(times.blocked_ns, times.disk_ns)), Topic::thread_blocked},
  };
  const Sort* most = std::max_element(std::begin(sorts), std::end(sorts),
                                      [](const Sort& a, const Sort& b) { return a.ns < b.ns; });
  const std::uint64_t busy =
      add(times.kvm_ns, add(times.qemu_ns, add(times.running_ns, add(times.unknown_ns, times.halt_poll_ns))));
  return most->ns > 0 && most->ns >= busy ? most->topic : Topic::thread_busy;
}

trace::ThreadTimes awake_times(const trace::ThreadStall& stall) {
  trace::ThreadTimes times = stall.times;
  // Before Linux 6.1 threads that stand for a suspend are in D.
  const std::uint64_t frozen = std::min(times.frozen_ns, stall.suspended_ns);
  times.frozen_ns -= frozen;
  times.disk_ns -= std::min(times.disk_ns, stall.suspended_ns - frozen);
  return times;
}

void Incidents::on_thread_stall(const VmTracks& vm, const ThreadStall& fact) {
  if (vm.ended) return;
  const Topic topic = topic_of(fact.stall);
  // No record may have come in between that let time pass.
  tick_vm(vm, states_[vm.id], fact.begin_ns());
  std::map<std::uint32_t, Topic>& stalling = states_[vm.id].stalling;
  // One that lasts is told of ever more rarely: its incident stays open without.
  if ((fact.stall.flags & trace::kStallOngoing) == 0)
    stalling.erase(fact.stall.tid);
  else if (stalling.size() < 4096)
    stalling.insert_or_assign(fact.stall.tid, topic);
  if (topic == Topic::stall) return on_thread_stopped(vm, fact);
  fold(vm.id, topic, "sched", fact.begin_ns(), fact.time_ns);
  // A stall is told of again as it grows, and when it has ended: quiet begins after its end.
  if (Incident* open = open_of(vm.id, topic)) {
    open->begin_ns = std::min(open->begin_ns, fact.begin_ns());
    open->last_ns = std::max(open->last_ns, fact.time_ns);
  }
}

void Incidents::on_thread_stopped(const VmTracks& vm, const ThreadStall& fact) {
  State& state = states_[vm.id];
  const StallReason reason =
      awake_times(fact.stall).frozen_ns > fact.stall.times.stopped_ns ? kFrozen : kStopped;
  const bool ongoing = (fact.stall.flags & trace::kStallOngoing) != 0;
  // All threads go on at the same time, and each tells of its own end.
  if (const auto at = incidents_.find(state.threads_stopped);
      at != incidents_.end() && at->second.end_ns && fact.begin_ns() <= *at->second.end_ns) {
    if (!ongoing) at->second.end_ns = std::max(*at->second.end_ns, fact.time_ns);
    at->second.begin_ns = std::min(at->second.begin_ns, fact.begin_ns());
    return;
  }
  set_stall(vm.id, reason, reason == kFrozen ? "threads frozen" : "threads stopped", fact.begin_ns(),
            fact.time_ns);
  state.stopped_seen_ns = std::max(state.stopped_seen_ns, fact.time_ns);
  state.threads_stopped = open_of(vm.id, Topic::stall)->id;
  if (!ongoing) clear_stall(vm.id, kStopped | kFrozen, fact.time_ns, "its threads go on");
}

}  // namespace vmwhy::timeline
