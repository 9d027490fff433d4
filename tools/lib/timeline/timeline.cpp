// SPDX-License-Identifier: BSD-2-Clause
#include "timeline/timeline.hpp"

#include <algorithm>

#include "timeline/host_track.hpp"
#include "timeline/qemu_track.hpp"
#include "timeline/windows.hpp"
#include "trace/tap_records.hpp"

namespace vmwhy::timeline {

namespace {
constexpr std::size_t kMaxSnapshots = 2 * 3600;
/// A record this far ahead of all others has a damaged time; it does not move the clock.
constexpr std::uint64_t kMaxLeap = 30ull * 24 * 3600 * kSecond;
}  // namespace

void Timeline::add_meta(const boost::json::object& meta) {
  for (const auto& member : meta) meta_.insert_or_assign(member.key(), member.value());
}

const VmTracks& Timeline::vm(std::uint32_t id) const {
  static const VmTracks kNone;
  auto at = vms_.find(id);
  return at == vms_.end() ? kNone : at->second;
}

VmTracks* Timeline::track(const trace::RecordView& record) {
  const std::uint32_t id = record.header.vm;
  auto at = vms_.find(id);
  if (at == vms_.end()) {
    if (vms_.size() >= kMaxVms) {
      ++ignored_vms_;
      return nullptr;
    }
    at = vms_.try_emplace(id).first;
    at->second.id = id;
    at->second.seen_ns = record.header.time_ns;
  }
  return &at->second;
}

void Timeline::add(const trace::RecordView& record) {
  const std::uint64_t time_ns = record.header.time_ns;
  if (first_ns_ == 0) {
    first_ns_ = now_ns_ = time_ns;
  } else if (time_ns > now_ns_ && time_ns - now_ns_ < kMaxLeap) {
    now_ns_ = time_ns;
  }
  if (record.header.vm == 0) {
    add_of_host(record);
  } else {
    add_of_vm(record);
  }
  incidents_.tick(vms_, now_ns_);
  if (now_ns_ > forgotten_ns_ + kSecond) forget();
}

void Timeline::add_of_host(const trace::RecordView& record) {
  // Numbered in thread_records.hpp: no name of the enumeration.
  if (record.type() == trace::CpuThrottle::kType) {
    host_.throttles.add({record.header.time_ns, record.as<trace::CpuThrottle>()});
    return;
  }
  switch (record.type()) {
    case trace::RecordType::clock_snapshot:
      return add_snapshot(record);
    case trace::RecordType::loss:
      return add_loss(host_, record);
    case trace::RecordType::sensor:
      return add_sensor(host_.sensors, record);
    case trace::RecordType::kernel_log:
      return add_kernel_line(host_, record);
    case trace::RecordType::pressure:
      return add_pressure(host_.pressures, record);
    case trace::RecordType::io_block:
      return add_block_failure(host_, record);
    case trace::RecordType::io_stats:
      add_io_stats(host_.disk_stats, record);
      return;
    case trace::RecordType::watch: {
      const auto watch = record.as<trace::Watch>();
      if (watch.event == static_cast<std::uint32_t>(trace::WatchEvent::begin))
        host_.watch_begin_ns = record.header.time_ns;
      ended_ = watch.event == static_cast<std::uint32_t>(trace::WatchEvent::end);
      return;
    }
    default:
      return;
  }
}

void Timeline::add_of_vm(const trace::RecordView& record) {
  VmTracks* vm = track(record);
  if (vm == nullptr) return;
  const std::uint64_t time_ns = record.header.time_ns;
  // Numbered in thread_records.hpp: no names of the enumeration.
  if (record.type() == trace::ThreadStall::kType)
    return incidents_.on_thread_stall(*vm, add_thread_stall(*vm, record));
  if (record.type() == trace::StorageLink::kType)
    return incidents_.on_storage_link(*vm, vm->storage_links.add(decode_storage_link(record)));
  if (record.type() == trace::ProcessSignal::kType) return add_process_signal(*vm, record);
  switch (record.type()) {
    case trace::RecordType::vm_seen:
      add_vm_seen(*vm, record);
      return incidents_.on_vm_seen(*vm, time_ns);
    case trace::RecordType::vm_end:
      if (vm->ended) return;
      add_vm_end(*vm, record);
      return incidents_.on_end(*vm);
    case trace::RecordType::qmp_message:
      return incidents_.on_qmp(*vm, add_qmp_message(*vm, record, clocks_), time_ns);
    case trace::RecordType::qmp_link:
      return incidents_.on_link(*vm, add_qmp_link(*vm, record));
    case trace::RecordType::qmp_withheld:
      return add_qmp_withheld(*vm, record);
    case trace::RecordType::process_state:
      return incidents_.on_process(*vm, add_process(*vm, record));
    case trace::RecordType::thread_state:
      return incidents_.on_thread(*vm, add_thread(*vm, record));
    case trace::RecordType::node_file:
      return add_node_file(*vm, record);
    case trace::RecordType::pressure:
      return add_pressure(vm->pressures, record);
    case trace::RecordType::cgroup_state:
      return incidents_.on_cgroup(*vm, add_cgroup(*vm, record));
    case trace::RecordType::io_syscall:
      return incidents_.on_request(*vm, add_request(*vm, record));
    case trace::RecordType::io_stats:
      return incidents_.on_io_stats(*vm, add_io_stats(vm->io_stats, record));
    case trace::RecordType::log_tail:
      return add_log_tail(*vm, record);
    case trace::RecordType::kvm_failure:
      return incidents_.on_kvm_failure(*vm, add_kvm_failure(*vm, record));
    case trace::RecordType::kvm_exit_summary:
      return incidents_.on_kvm_exits(*vm, add_kvm_exits(*vm, record));
    case trace::RecordType::sensor:
      return add_sensor(vm->sensors, record);
    case trace::RecordType::loss:
      return add_loss(host_, record);
    case trace::RecordType::collected: {
      const auto collected = record.as<trace::Collected>();
      return incidents_.on_collected(vm->id, collected.began_ns, time_ns, collected.overdue, record.text);
    }
    default:
      return add_of_tap(*vm, record);
  }
}

void Timeline::add_of_tap(VmTracks& vm, const trace::RecordView& record) {
  if (record.type() == trace::QmpPeer::kType) incidents_.on_peer(vm, add_qmp_peer(vm, record));
  if (record.type() == trace::QemuCall::kType)
    incidents_.on_call(vm, add_qemu_call(vm, record), record.header.time_ns);
  if (record.type() == trace::OwnerState::kType) add_owner_state(vm, record);
  if (record.type() == trace::QmpGap::kType) vm.unheard_bytes += record.as<trace::QmpGap>().bytes;
}

void Timeline::add_snapshot(const trace::RecordView& record) {
  const auto snapshot = record.as<trace::ClockSnapshot>();
  if (snapshots_.size() >= kMaxSnapshots) {
    // A run of days: stamps are converted soon after they were made, so the last hour is enough.
    snapshots_.erase(snapshots_.begin(), snapshots_.begin() + kMaxSnapshots / 2);
    clocks_ = clock::ClockMap();
    for (const trace::ClockSnapshot& kept : snapshots_) clocks_.add(kept);
  }
  if (!snapshots_.empty() && snapshot.boottime_ns > snapshots_.back().boottime_ns) {
    const std::uint64_t slept = clock::suspended_between(snapshots_.back(), snapshot);
    if (slept != 0)
      incidents_.on_host_suspended(
          vms_, host_.suspends.add({snapshot.boottime_ns, snapshots_.back().boottime_ns, slept}));
  }
  snapshots_.push_back(snapshot);
  clocks_.add(snapshot);
}

void Timeline::forget() {
  forgotten_ns_ = now_ns_;
  const std::uint64_t recent = now_ns_ - std::min(now_ns_, kHorizon);
  std::map<std::uint32_t, std::uint64_t> needed;
  std::uint64_t host_needed = recent;
  for (const auto& [id, incident] : incidents_.all()) {
    const std::uint64_t from = std::min(incident.earliest_ns, incident.begin_ns);
    const std::uint64_t since = from - std::min(from, 2 * kLookBack);
    auto at = needed.try_emplace(incident.vm, recent).first;
    at->second = std::min(at->second, since);
    host_needed = std::min(host_needed, since);
  }
  host_.kernel.forget_before(host_needed, 0);
  host_.block_failures.forget_before(host_needed, 0);
  host_.disk_stats.forget_before(host_needed, 0);
  host_.pressures.forget_before(host_needed);
  host_.suspends.forget_before(host_needed, 0);
  host_.throttles.forget_before(host_needed, 0);
  host_.lost.forget_before(host_needed, 16);
  for (auto& [id, vm] : vms_) {
    auto at = needed.find(id);
    const std::uint64_t since = at == needed.end() ? recent : at->second;
    for (auto& [name, list] : vm.events) list.forget_before(since);
    vm.link_changes.forget_before(since);
    vm.withheld.forget_before(since, 0);
    vm.statuses.forget_before(since);
    vm.states.forget_before(since);
    vm.migrations.forget_before(since);
    vm.jobs.forget_before(since);
    vm.graphs.forget_before(since);
    vm.backends.forget_before(since);
    vm.throttle_groups.forget_before(since, 64);
    vm.commands.forget_before(since, 0);
    vm.peers.forget_before(since);
    vm.processes.forget_before(since);
    vm.threads.forget_before(since, 0);
    vm.files.forget_before(since, 0);
    vm.cgroups.forget_before(since);
    vm.pressures.forget_before(since);
    vm.logs.forget_before(since);
    vm.requests.forget_before(since, 0);
    vm.io_stats.forget_before(since, 0);
    vm.storage_links.forget_before(since, 0);
    vm.thread_stalls.forget_before(since, 0);
    vm.signals.forget_before(since, 0);
    vm.owner_states.forget_before(since, 0);
    // The last run state that was set holds, however long ago that was.
    vm.calls.forget_before(since, 64);
    vm.block_calls.forget_before(since, 0);
  }
}

}  // namespace vmwhy::timeline
