// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-stalls/tracker.hpp"

#include <dirent.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <set>

#include "clock/clock.hpp"
#include "core/text.hpp"
#include "host/proc_file.hpp"

namespace vmwhy::kvm_stalls {
namespace {

// Threads that ended and are still listed in the total: QEMU's workers come and go.
constexpr std::size_t kMaxEnded = 256;
// Of a thread, in all windows: those kept, and those told.
constexpr std::size_t kMaxCulprits = 1024, kCulpritsOfAll = 64;
/// What is no vCPU may take longer, up to a bound: a threshold that was raised is not meant for threads that
/// were meant to be told of at that bound anyway.
constexpr std::uint64_t kMainFactor = 10, kMainBound = 100'000'000;
constexpr std::uint64_t kOtherFactor = 100, kOtherBound = 1'000'000'000;

void add_culprits(Tracker::Watched& watched, const Share& window) {
  for (const stalls::Culprit& culprit : window.culprits) {
    const auto key = std::tuple(culprit.pid, culprit.tid, culprit.comm);
    if (watched.culprits.contains(key) || watched.culprits.size() < kMaxCulprits)
      watched.culprits[key] += culprit.ns;
  }
}

/// Since it was registered, until its last window's end.
Share whole(const Tracker::Watched& watched) {
  Share out = between(watched.thread, watched.first, watched.last);
  out.culprits.clear();
  for (const auto& [key, ns] : watched.culprits) {
    const auto& [pid, tid, comm] = key;
    out.culprits.push_back({ns, tid, pid, comm});
  }
  out.set_blamed(watched.last.blamed_ns - watched.first.blamed_ns);
  if (out.culprits.size() > kCulpritsOfAll) {
    for (std::size_t i = kCulpritsOfAll; i < out.culprits.size(); ++i) out.others_ns += out.culprits[i].ns;
    out.culprits.resize(kCulpritsOfAll);
  }
  return out;
}

std::set<std::uint32_t> tids_of(std::uint32_t pid) {
  std::set<std::uint32_t> tids;
  const std::string path = "/proc/" + std::to_string(pid) + "/task";
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(path.c_str()), &::closedir);
  if (!dir) return tids;
  while (const dirent* entry = ::readdir(dir.get()))
    if (const auto tid = host::parse_u64(entry->d_name)) tids.insert(static_cast<std::uint32_t>(*tid));
  return tids;
}

std::string list_names(const std::vector<qmp::QemuProcess>& processes) {
  std::string out;
  for (const qmp::QemuProcess& process : processes)
    if (!process.name.empty()) out += (out.empty() ? "" : ", ") + printable(process.name, 60);
  return out.empty() ? "no VM of this host has a name" : "there is: " + out;
}

trace::ThreadRole role_of(std::uint32_t pid, const qmp::QemuThread& thread) {
  if (thread.vcpu >= 0 || thread.comm.starts_with("ALL CPUs/")) return trace::ThreadRole::vcpu;
  if (thread.tid == pid) return trace::ThreadRole::main;
  // QEMU names iothreads so where it names threads at all (debug-threads=on).
  return thread.comm.starts_with("IO ") ? trace::ThreadRole::iothread : trace::ThreadRole::other;
}

}  // namespace

Result<std::vector<qmp::QemuProcess>> find_vms(const Options& options) {
  std::vector<qmp::QemuProcess> out;
  for (const std::uint32_t pid : options.pids) {
    auto process = qmp::inspect_qemu(pid);
    if (!process) return Failure{{}, to_string(process.error()), "see qmp-call --list"};
    out.push_back(std::move(*process));
  }
  if (options.names.empty() && !options.all) return out;
  std::vector<qmp::QemuProcess> processes = qmp::find_qemus();
  if (options.all) return processes;
  for (const std::string& name : options.names) {
    const auto found = std::find_if(processes.begin(), processes.end(), [&](const qmp::QemuProcess& process) {
      return process.name == name || (!process.uuid.empty() && process.uuid == name);
    });
    if (found == processes.end())
      return Failure{{}, "no VM '" + printable(name) + "' here", list_names(processes)};
    out.push_back(*found);
  }
  return out;
}

std::uint64_t Tracker::threshold(trace::ThreadRole role) const {
  const std::uint64_t vcpu = options_.vcpu_threshold_ns();
  switch (role) {
    case trace::ThreadRole::vcpu:
      return vcpu;
    case trace::ThreadRole::main:
    case trace::ThreadRole::iothread:
      return std::max(vcpu, std::min(vcpu * kMainFactor, kMainBound));
    default:
      return std::max(vcpu, std::min(vcpu * kOtherFactor, kOtherBound));
  }
}

void Tracker::note(std::string text) {
  if (notes_.size() < 64 && std::find(notes_.begin(), notes_.end(), text) == notes_.end())
    notes_.push_back(std::move(text));
}

std::vector<std::string> Tracker::take_notes() {
  return std::exchange(notes_, {});
}

void Tracker::add(const qmp::QemuProcess& process) {
  on_vm_(process);
  alive_[process.pid] = {process.start_ns, host::ProcessWatch(process.pid)};
  names_[process.pid] = process.name;
  if (process.threads.empty()) note(fmt::format("no thread of process {} could be seen", process.pid));
  for (const qmp::QemuThread& thread : process.threads) add_thread(process, thread);
  probes_.settle();
  const bool tells_vcpus = std::any_of(
      process.threads.begin(), process.threads.end(),
      [&](const qmp::QemuThread& thread) { return role_of(process.pid, thread) == trace::ThreadRole::vcpu; });
  // Where kvm_entry fires, it tells them.
  if (!tells_vcpus && !probes_.tells_guest() && !process.threads.empty())
    note(fmt::format(
        "which threads of process {} are vCPUs is not known (QEMU names them with -name "
        "debug-threads=on): a stall of theirs is told from {} on",
        process.pid, human_duration(static_cast<std::int64_t>(threshold(trace::ThreadRole::other)))));
}

void Tracker::add_thread(const qmp::QemuProcess& process, const qmp::QemuThread& thread) {
  if (slot_of_.contains(thread.tid)) return;
  const trace::ThreadRole role = role_of(process.pid, thread);
  if (!options_.vcpus.empty() &&
      (role != trace::ThreadRole::vcpu ||
       std::find(options_.vcpus.begin(), options_.vcpus.end(), thread.vcpu) == options_.vcpus.end()))
    return;
  Watched watched;
  const auto slot = probes_.add(process.pid, thread.tid, threshold(role));
  if (!slot) {
    if (slot.error().code.value() == ENOSPC && std::exchange(full_, true)) return;
    return note(to_string(slot.error()));
  }
  watched.slot = *slot;
  if (const auto row = probes_.read(*slot))
    watched.first.time_ns = row->since_ns - stalls::sum(count(*row, 0).times);
  watched.last = watched.first;
  watched.thread = {process.pid, thread.tid, thread.comm, role, thread.vcpu};
  threads_[*slot] = std::move(watched);
  slot_of_[thread.tid] = *slot;
  told_.erase(*slot);
}

std::vector<std::uint32_t> Tracker::look_again() {
  if (options_.all) {
    for (const auto& [pid, start_ns] : qmp::list_qemu_pids()) {
      const auto known = alive_.find(pid);
      if (known != alive_.end() && known->second.start_ns == start_ns) continue;
      if (known != alive_.end()) forget(pid);  // Its number was used again.
      if (const auto process = qmp::inspect_qemu(pid)) add(*process);
    }
  }
  std::vector<std::uint32_t> gone;
  for (const auto& [pid, alive] : alive_) {
    const std::set<std::uint32_t> tids =
        alive.process.sample() ? tids_of(pid) : std::set<std::uint32_t>();  // Or of another of its number.
    drop_unseen_ends(pid, tids);
    if (tids.empty()) {
      gone.push_back(pid);
      continue;
    }
    const bool fresh =
        options_.vcpus.empty() &&
        std::any_of(tids.begin(), tids.end(), [&](std::uint32_t tid) { return !slot_of_.contains(tid); });
    if (!fresh || full_) continue;
    if (const auto process = qmp::inspect_qemu(pid)) {
      for (const qmp::QemuThread& thread : process->threads) add_thread(*process, thread);
      probes_.settle();
    }
  }
  for (const std::uint32_t pid : gone) forget(pid);
  return gone;
}

void Tracker::end_watch(std::uint32_t slot) {
  const Watched& watched = threads_.at(slot);
  if (ended_.size() < kMaxEnded)
    ended_.push_back(whole(watched));
  else
    ++unlisted_;
  probes_.remove(slot);
  slot_of_.erase(watched.thread.tid);
  told_.erase(slot);
  threads_.erase(slot);
  full_ = false;
}

void Tracker::drop_unseen_ends(std::uint32_t pid, const std::set<std::uint32_t>& tids) {
  std::vector<std::uint32_t> gone;
  for (const auto& [slot, watched] : threads_) {
    if (watched.thread.pid != pid || tids.contains(watched.thread.tid)) continue;
    const auto row = probes_.read(slot);
    // A thread whose end was seen is told with the next window.
    if (!row || row->state < STALLS_STATES) gone.push_back(slot);
  }
  for (const std::uint32_t slot : gone) end_watch(slot);
}

void Tracker::forget(std::uint32_t pid) {
  alive_.erase(pid);
}

const Tracker::Watched* Tracker::find(std::uint32_t slot, std::uint32_t tid) const {
  const auto at = threads_.find(slot);
  return at != threads_.end() && at->second.thread.tid == tid ? &at->second : nullptr;
}

const Thread* Tracker::thread(std::uint32_t pid, std::uint32_t tid) const {
  const auto slot = slot_of_.find(tid);
  const auto at = slot != slot_of_.end() ? threads_.find(slot->second) : threads_.end();
  return at != threads_.end() && at->second.thread.pid == pid ? &at->second.thread : nullptr;
}

void Tracker::learn_role(Watched& watched, const stalls_thread& row) const {
  // Where QEMU does not name its threads, entering the guest tells a vCPU.
  if (watched.thread.role != trace::ThreadRole::other || row.good != bpf::stalls_good_mask(true)) return;
  watched.thread.role = trace::ThreadRole::vcpu;
  watched.thread.vcpu = row.vcpu_id;
}

std::vector<Share> Tracker::window() {
  std::vector<Share> out;
  std::vector<std::uint32_t> gone;
  for (auto& [slot, watched] : threads_) {
    // The clock first: what the row shows afterwards was so then, or tells since when it is not.
    const std::uint64_t read_ns = clock::now_ns();
    const auto row = probes_.read(slot);
    if (!row) {
      note(fmt::format("the times of thread {} could not be read in this window", watched.thread.tid));
      continue;
    }
    learn_role(watched, *row);
    const Counted now = count(*row, std::max<std::uint64_t>(read_ns, row->since_ns));
    out.push_back(between(watched.thread, watched.last, now));
    add_culprits(watched, out.back());
    watched.last = now;
    if (row->state >= STALLS_STATES) gone.push_back(slot);
  }
  for (const std::uint32_t slot : gone) end_watch(slot);
  std::sort(out.begin(), out.end(),
            [](const Share& a, const Share& b) { return listed_before(a.thread, b.thread); });
  return out;
}

std::vector<Share> Tracker::total() {
  std::vector<Share> out = ended_;
  for (const auto& [slot, watched] : threads_) out.push_back(whole(watched));
  if (unlisted_ != 0) note(fmt::format("{} more threads came and went", unlisted_));
  std::sort(out.begin(), out.end(),
            [](const Share& a, const Share& b) { return listed_before(a.thread, b.thread); });
  return out;
}

bool Tracker::told(std::uint32_t slot, std::uint64_t begin_ns) const {
  const auto at = told_.find(slot);
  return at != told_.end() && at->second.begin_ns == begin_ns && at->second.once;
}

std::vector<Seen> Tracker::ongoing(std::uint64_t now_ns) {
  std::vector<Seen> out;
  next_crossing_ns_ = UINT64_MAX;
  for (auto& [slot, watched] : threads_) {
    const std::uint64_t begin_ns = probes_.stalled_since(slot);
    if (begin_ns == 0 || now_ns <= begin_ns) continue;
    Told& told = told_[slot];
    if (told.begin_ns != begin_ns) told = {begin_ns, threshold(watched.thread.role)};
    if (now_ns - begin_ns < told.next_ns) {
      next_crossing_ns_ = std::min(next_crossing_ns_, told.next_ns - (now_ns - begin_ns));
      continue;
    }
    const auto row = probes_.read(slot);
    const std::uint64_t read_ns = clock::now_ns();
    if (!row || row->stall.begin_ns != begin_ns || row->state >= STALLS_STATES) continue;
    learn_role(watched, *row);
    while (told.next_ns <= now_ns - begin_ns) told.next_ns *= 10;
    out.push_back(make_ongoing(watched.thread, *row, read_ns));
    out.back().again = std::exchange(told.once, true);
  }
  return out;
}

}  // namespace vmwhy::kvm_stalls
