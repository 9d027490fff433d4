// SPDX-License-Identifier: BSD-2-Clause
// Incidents that QMP events make without a pause.
#include <algorithm>

#include "timeline/incidents.hpp"
#include "timeline/json_read.hpp"
#include "timeline/thread_topic.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::timeline {

void Incidents::fold(std::uint32_t vm, Topic topic, const QmpEvent& event, std::uint64_t now_ns) {
  fold(vm, topic, event.name, event.time_ns, now_ns);
}

void Incidents::fold(std::uint32_t vm, Topic topic, const std::string& trigger, std::uint64_t time_ns,
                     std::uint64_t now_ns) {
  Incident* same = open_of(vm, topic);
  if (same != nullptr && same->trigger == trigger) {
    ++same->count;
    same->last_ns = std::max(same->last_ns, time_ns);
    return;
  }
  if (same != nullptr) close(*same, same->last_ns, "", true);
  // A vCPU that KVM gave up on, or a thread that stalls, does not get on; whatever else is folded does not
  // stop the VM.
  const bool stall = topic == Topic::kvm_failure || is_thread_topic(topic);
  open(vm, topic, stall ? Kind::stall : Kind::event, trigger, time_ns, now_ns);
  ticking_.insert(vm);
}

void Incidents::on_kvm_failure(const VmTracks& vm, const KvmFailure& fact) {
  fold(vm.id, Topic::kvm_failure, "kvm_userspace_exit", fact.time_ns, fact.time_ns);
}

void Incidents::on_kvm_exits(const VmTracks& vm, const KvmExits& fact) {
  if (!is_exit_storm(fact.sum)) return;
  // The window's beginning: that is since when it is known.
  fold(vm.id, Topic::exit_storm, "kvm_exit", fact.time_ns - std::min(fact.time_ns, fact.sum.window_ns),
       fact.time_ns);
}

void Incidents::on_request(const VmTracks& vm, const IoRequest& request) {
  if (request.io.what != static_cast<std::uint32_t>(trace::IoWhat::slow)) return;
  std::deque<std::pair<std::uint64_t, std::uint64_t>>& slow = states_[vm.id].slow;
  const std::uint64_t end = request.time_ns;
  slow.emplace_back(end - std::min(end, request.io.duration_ns), end);
  while (slow.size() > 64 || slow.front().second + kSlowWindow < end) slow.pop_front();
  const std::uint64_t begin = std::min_element(slow.begin(), slow.end())->first;
  if (slow.size() < kSlowCount || end - begin < kSlowSpan) return;
  ticking_.insert(vm.id);
  fold(vm.id, Topic::storage_slow, "slow requests", begin, end);
  if (Incident* incident = open_of(vm.id, Topic::storage_slow)) incident->last_ns = end;
}

void Incidents::on_io_stats(const VmTracks& vm, const IoStats& stats) {
  if (!stats.of_guest_data() || stats.io.count == 0) return;
  auto& slow = states_[vm.id].guest_slow;
  const std::pair key{stats.node, stats.io.operation};
  if (stats.io.mean_ns < kGuestSlow) {
    slow.erase(key);
    return;
  }
  if (slow.size() >= kMaxSlowNodes && !slow.contains(key)) return;
  const auto [at, fresh] = slow.try_emplace(key, stats.begin_ns(), stats.time_ns);
  auto& [since, until] = at->second;
  if (until + kSlowWindow < stats.time_ns) since = stats.begin_ns();
  until = stats.time_ns;
  // One window may hold no more than a hiccup that is over.
  if (fresh || until - since < kSlowSpan) return;
  fold(vm.id, Topic::storage_slow, "slow requests", since, until);
  if (Incident* incident = open_of(vm.id, Topic::storage_slow)) incident->last_ns = until;
}

void Incidents::on_guest_event(const VmTracks& vm, const QmpEvent& event, std::uint64_t now_ns) {
  const std::string action = text_of(event.data, "action", 32);
  if (event.name == "BLOCK_IO_ERROR") {
    // With action stop, a STOP follows, or was there before.
    if (action == "report" || action == "ignore") fold(vm.id, Topic::io_reported, event, now_ns);
  } else if (event.name == "GUEST_PANICKED") {
    if (action == "run") fold(vm.id, Topic::guest_event, event, now_ns);
  } else if (event.name == "GUEST_CRASHLOADED") {
    if (action != "pause" && action != "poweroff") fold(vm.id, Topic::guest_event, event, now_ns);
  } else if (event.name == "WATCHDOG") {
    if (action != "pause" && action != "poweroff") fold(vm.id, Topic::guest_event, event, now_ns);
  } else if (event.name == "MEMORY_FAILURE") {
    fold(vm.id, Topic::memory_failure, event, now_ns);
  }
}

void Incidents::on_reset(const VmTracks& vm, const QmpEvent& event, std::uint64_t now_ns) {
  State& state = states_[vm.id];
  const std::uint64_t time = event.time_ns;
  // Counted from the first of a group: a guest that resets faster than that would never begin a second one.
  const bool same = state.reset_ns != 0 && time < state.reset_ns + kResetGroup;
  if (!same) state.reset_ns = std::max(state.reset_ns, time);
  if (same || !bool_of(event.data, "guest")) return;
  const QmpEvent* wakeup = vm.last_event("WAKEUP", time - std::min(time, kResetGroup), time);
  if (wakeup != nullptr) return;  // Firmware, on its way out of S3.
  if (Incident* loop = open_of(vm.id, Topic::reset_loop)) {
    ++loop->count;
    loop->last_ns = std::max(loop->last_ns, time);
    return;
  }
  state.resets.push_back(time);
  while (!state.resets.empty() && state.resets.front() + kResetLoopWindow < time) state.resets.pop_front();
  if (state.resets.size() < kResetLoopCount) return;
  Incident& loop = open(vm.id, Topic::reset_loop, Kind::event, "RESET", state.resets.front(), now_ns);
  loop.count = state.resets.size();
  loop.last_ns = time;
  state.resets.clear();
  ticking_.insert(vm.id);
}

void Incidents::open_postcopy(std::uint32_t vm, std::string trigger, std::uint64_t begin_ns,
                              std::uint64_t now_ns) {
  if (open_of(vm, Topic::postcopy) != nullptr) return;
  open(vm, Topic::postcopy, Kind::stall, std::move(trigger), begin_ns, now_ns);
}

void Incidents::on_migration(const VmTracks& vm, const Migration& migration, std::uint64_t now_ns) {
  if (vm.ended) return;
  if (migration.status == "postcopy-paused") open_postcopy(vm.id, "query-migrate", migration.time_ns, now_ns);
  Incident* throttled = open_of(vm.id, Topic::migration_throttle);
  if (migration.throttle_percentage >= kMigrationThrottle) {
    if (throttled == nullptr)
      throttled =
          &open(vm.id, Topic::migration_throttle, Kind::stall, "query-migrate", migration.time_ns, now_ns);
    throttled->last_ns = migration.time_ns;
  } else if (throttled != nullptr) {
    close(*throttled, migration.time_ns, "the throttle was taken off");
  }
}

void Incidents::on_migration_event(const VmTracks& vm, const QmpEvent& event, std::uint64_t now_ns) {
  const std::string status = text_of(event.data, "status", 32);
  if (status == "postcopy-paused") {
    open_postcopy(vm.id, "MIGRATION", event.time_ns, now_ns);
  } else if (status == "postcopy-active" || status == "completed" || status == "failed" ||
             status == "cancelled") {
    Incident* paused = open_of(vm.id, Topic::postcopy);
    if (paused != nullptr && event.time_ns >= paused->begin_ns)
      close(*paused, event.time_ns, "MIGRATION " + status);
  }
  // QEMU takes the throttle off when a migration ends, however it ends.
  Incident* throttled = open_of(vm.id, Topic::migration_throttle);
  const bool over = status == "completed" || status == "failed" || status == "cancelled";
  if (throttled != nullptr && over && event.time_ns >= throttled->begin_ns)
    close(*throttled, event.time_ns, "MIGRATION " + status);
  if (status == "failed" && open_of(vm.id, Topic::pause) == nullptr)
    fold(vm.id, Topic::migration_failed, event, now_ns);
}

}  // namespace vmwhy::timeline
