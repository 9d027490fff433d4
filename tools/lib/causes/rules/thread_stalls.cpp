// SPDX-License-Identifier: BSD-2-Clause
// Threads of QEMU that did not get on, as the scheduler's probes saw it: who had the CPU, a quota, memory, or
// what the main thread sleeps in.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>

#include "causes/rules/rules.hpp"
#include "causes/rules/threads.hpp"
#include "core/text.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {
namespace {

using stalls::State;
using timeline::Topic;

constexpr std::size_t kEvidence = 5, kCulprits = 5;

std::string human(std::uint64_t ns) {
  return human_duration(static_cast<std::int64_t>(std::min<std::uint64_t>(ns, INT64_MAX)));
}

/// What every finding of such an incident tells: the worst stalls, how many, how long.
void add_stalls(const Case& c, const ThreadStalls& threads, std::uint64_t total_ns, Finding& finding) {
  for (std::size_t i = 0; i < threads.list.size() && i < kEvidence; ++i)
    finding.evidence.push_back(stall_evidence(threads.list[i]));
  finding.details["stalls"] = threads.list.size();
  finding.details["longest_ns"] = threads.list.front().record.length_ns;
  finding.details["total_ns"] = total_ns;
  if (c.vm.thread_stalls.dropped() > 0)
    finding.not_proved.push_back(
        {"the sums over all stalls", fmt::format("{} more of them are not counted: a report holds no more",
                                                 c.vm.thread_stalls.dropped())});
}

/// Who ran instead, over all stalls, by process; the longest first.
std::vector<stalls::Culprit> culprits_of(const ThreadStalls& threads) {
  std::map<std::uint32_t, stalls::Culprit> by_pid;
  for (const stalls::Stall& stall : threads.list) {
    for (const stalls::Culprit& culprit : stall.culprits) {
      // The idle tasks of all CPUs are one.
      const std::uint32_t pid = culprit.tid == 0 ? 0 : culprit.pid;
      stalls::Culprit& sum =
          by_pid.try_emplace(pid, stalls::Culprit{0, culprit.tid, pid, culprit.comm}).first->second;
      sum.ns = saturated(sum.ns, culprit.ns);
    }
  }
  std::vector<stalls::Culprit> out;
  out.reserve(by_pid.size());
  for (auto& [pid, culprit] : by_pid) out.push_back(std::move(culprit));
  std::stable_sort(out.begin(), out.end(),
                   [](const stalls::Culprit& a, const stalls::Culprit& b) { return a.ns > b.ns; });
  return out;
}

struct Cgroups {
  const timeline::Cgroup* last = nullptr;
  std::uint64_t throttled_us = 0, periods = 0;  ///< By how much the quota's counters grew in the incident.
};

/// Samples are a second apart: one before the incident, and one after it.
Cgroups cgroups_of(const Case& c) {
  Cgroups out;
  const timeline::Cgroup* first = nullptr;
  for (const timeline::Cgroup& cgroup : c.vm.cgroups) {
    if (cgroup.time_ns > c.until + 2 * timeline::kSecond) break;
    if (first == nullptr || cgroup.time_ns <= c.begin) first = &cgroup;
    out.last = &cgroup;
  }
  // Moved to another group in between: its counters are others.
  if (first == nullptr || first->cpu_path != out.last->cpu_path) return out;
  out.throttled_us =
      out.last->state.throttled_us - std::min(first->state.throttled_us, out.last->state.throttled_us);
  out.periods = out.last->state.throttled_periods -
                std::min(first->state.throttled_periods, out.last->state.throttled_periods);
  return out;
}

const std::string& cpu_path(const timeline::Cgroup& cgroup) {
  return cgroup.cpu_path.empty() ? cgroup.path : cgroup.cpu_path;
}
const std::string& memory_path(const timeline::Cgroup& cgroup) {
  return cgroup.memory_path.empty() ? cgroup.path : cgroup.memory_path;
}

/// Which quota it is, and what its counters say.
void name_quota(const Cgroups& cgroups, Finding& finding) {
  finding.remedy.emplace_back(
      "raise the quota: cpu.max (cgroup v2), cpu.cfs_quota_us (v1), or CPUQuota= of systemd");
  if (cgroups.last == nullptr || cgroups.last->state.quota_us < 0) {
    finding.not_proved.push_back({"which cgroup has the quota", "none that was read has one"});
    return;
  }
  const timeline::Cgroup& cgroup = *cgroups.last;
  const auto quota = static_cast<std::uint64_t>(cgroup.state.quota_us);
  finding.summary += fmt::format(": {} of each {} for {} or a group above it", human(quota * 1000),
                                 human(cgroup.state.period_us * 1000), printable(cpu_path(cgroup), 200));
  finding.details["cgroup"] = cpu_path(cgroup);
  finding.details["quota_us"] = quota;
  finding.details["period_us"] = cgroup.state.period_us;
  if (cgroups.periods > 0)
    finding.evidence.push_back(
        {cgroup.time_ns, "cgroup",
         fmt::format(
             "cpu.stat of {} and above: throttled in {} periods of this time, {} by the sum of its CPUs",
             printable(cpu_path(cgroup), 200), cgroups.periods, human(cgroups.throttled_us * 1000))});
}

/// The counters of a quota grew by so much that it may be why threads waited on a CPU that nobody used.
bool may_be_quota(const Case& c, const ThreadStalls& threads) {
  const Cgroups cgroups = cgroups_of(c);
  return cgroups.periods > 0 && cgroups.throttled_us * 1000 >= threads.of(State::waiting) / 2;
}

/// How much of the wait others ran; the idle task is nobody.
std::uint64_t busy_ns(const std::vector<stalls::Culprit>& culprits) {
  std::uint64_t out = 0;
  for (const stalls::Culprit& culprit : culprits)
    if (culprit.tid != 0) out = saturated(out, culprit.ns);
  return out;
}

void name_culprits(const Case& c, const ThreadStalls& threads, const std::vector<stalls::Culprit>& culprits,
                   Finding& finding) {
  boost::json::array list;
  const stalls::Culprit* first = nullptr;
  std::uint64_t own = 0;
  for (const stalls::Culprit& culprit : culprits) {
    if (culprit.tid == 0) continue;
    if (first == nullptr) first = &culprit;
    if (c.vm.pid != 0 && culprit.pid == c.vm.pid) own = culprit.ns;
    if (list.size() < kCulprits)
      list.push_back(boost::json::object{
          {"pid", culprit.pid}, {"comm", printable(culprit.comm, 64)}, {"ns", culprit.ns}});
  }
  if (first != nullptr && threads.list.size() > 1)
    finding.summary = fmt::format(
        "threads of the VM were ready for {} in {} stalls while others ran, {} for {}",
        human(threads.of(State::waiting)), threads.list.size(), stalls::describe(*first), human(first->ns));
  if (first == nullptr) finding.not_proved.push_back({"who ran instead", "the records name nobody"});
  if (own > 0 && own >= busy_ns(culprits) / 2) {
    finding.details["own_threads"] = true;
    finding.remedy.emplace_back("its own threads share CPUs: give it as many as it has vCPUs, and one more");
  }
  finding.details["culprits"] = std::move(list);
}

/// What the thread that held a lock did while `stall` waited for it: the longest of it. Nothing: it is not
/// seen that it did not get on.
std::optional<stalls::Stall> owners_stall(const Case& c, const stalls::Stall& stall) {
  std::optional<stalls::Stall> out;
  std::uint64_t most = 0;
  for (const timeline::ThreadStall& fact : c.vm.thread_stalls) {
    if (fact.stall.tid != stall.record.lock_owner) continue;
    const std::uint64_t from = std::max(fact.begin_ns(), stall.begin_ns());
    const std::uint64_t until = std::min(fact.time_ns, stall.end_ns);
    if (until <= from || until - from <= most) continue;
    most = until - from;
    out = stalls::take_apart(fact.time_ns, fact.stall, fact.text);
  }
  return out;
}

void name_lock_owner(const Case& c, const stalls::Stall& stall, Finding& finding) {
  finding.details["big_lock"] = stall.waits_for_big_lock();
  const std::string pid = c.vm.pid != 0 ? std::to_string(c.vm.pid) : "PID";
  const std::string remedy =
      "gdb -p " + pid + " -batch -ex 'thread apply all bt' (this stops the VM meanwhile)";
  if (stall.record.lock_owner == 0) {
    finding.not_proved.push_back({"who holds the lock", "it was not seen in the lock when the wait began"});
    finding.remedy.push_back("see who holds it: " + remedy);
    return;
  }
  finding.details["lock_owner"] = stall.record.lock_owner;
  const std::optional<stalls::Stall> owner = owners_stall(c, stall);
  if (!owner) {
    finding.not_proved.push_back({"what " + printable(stall.lock_owner, 64) + " did with the lock",
                                  "no stall of it was seen meanwhile"});
    finding.remedy.push_back("see what it does: " + remedy);
    return;
  }
  finding.summary += "; " + stalls::sentence(*owner);
  const Evidence told = stall_evidence(*owner);
  if (std::none_of(finding.evidence.begin(), finding.evidence.end(),
                   [&](const Evidence& evidence) { return evidence.text == told.text; }))
    finding.evidence.push_back(told);
  add_stack(*owner, finding.evidence);
  // Who sleeps gives no lock back.
  const std::uint64_t slack = stall.record.length_ns / 10;
  const bool all_along =
      owner->begin_ns() <= stall.begin_ns() + slack && owner->end_ns + slack >= stall.end_ns;
  if (!all_along)
    finding.not_proved.push_back(
        {"that it held the lock all the while", "who does is read when a wait begins"});
  finding.remedy.emplace_back("see what holds up that thread: a slow file, device, pipe or socket");
}

}  // namespace

Opinion judge_host_cpu_contention(const Case& c) {
  if (c.incident.topic != Topic::thread_waits) return nothing();
  const ThreadStalls threads = thread_stalls_of(c);
  if (threads.list.empty()) return nothing();
  const std::vector<stalls::Culprit> culprits = culprits_of(threads);
  const std::uint64_t waited = threads.of(State::waiting), busy = busy_ns(culprits);
  // Ready on a CPU that nobody used: that is no contention.
  if (!culprits.empty() && busy < waited / 4)
    return against("host-cpu-contention", fmt::format("others ran for {} of the {} that threads were ready",
                                                      human(busy), human(waited)));
  if (culprits.empty() && may_be_quota(c, threads)) return nothing();
  Finding finding;
  finding.confidence = busy >= waited / 2 && busy > 0 ? Confidence::proven : Confidence::likely;
  finding.summary = stalls::sentence(threads.list.front());
  name_culprits(c, threads, culprits, finding);
  if (busy > 0 && busy < waited / 2)
    finding.not_proved.push_back({"who had the CPU for the rest", "the records name nobody"});
  add_stalls(c, threads, waited, finding);
  finding.remedy.emplace_back(
      "give the VM CPUs of its own, or the others less of them: taskset, cpuset, CPU weight");
  return found(std::move(finding));
}

Opinion judge_host_cpu_quota(const Case& c) {
  const bool seen = c.incident.topic == Topic::thread_throttled;
  if (!seen && c.incident.topic != Topic::thread_waits) return nothing();
  const ThreadStalls threads = thread_stalls_of(c);
  if (threads.list.empty()) return nothing();
  Finding finding;
  std::uint64_t total = threads.of(State::throttled);
  if (seen) {
    finding.confidence = Confidence::proven;
    finding.summary = fmt::format("a CPU quota kept the VM's threads from running for {}", human(total));
  } else {
    const std::uint64_t waited = threads.of(State::waiting);
    const std::uint64_t busy = busy_ns(culprits_of(threads));
    if (busy >= waited / 4 || !may_be_quota(c, threads)) {
      if (total == 0) return nothing();
      return against("host-cpu-quota", fmt::format("of the {} that threads were ready a quota took {}",
                                                   human(saturated(waited, total)), human(total)));
    }
    total = saturated(total, waited);
    finding.confidence = Confidence::likely;
    finding.summary =
        fmt::format("threads of the VM were ready for {}, while a CPU quota was used up", human(waited));
    finding.not_proved.push_back(
        {"that the quota kept these threads", "the scheduler's mark of it was not seen at their switches"});
  }
  name_quota(cgroups_of(c), finding);
  add_stalls(c, threads, total, finding);
  return found(std::move(finding));
}

Opinion judge_host_memory_pressure(const Case& c) {
  if (c.incident.topic != Topic::thread_memory) return nothing();
  const ThreadStalls threads = thread_stalls_of(c);
  if (threads.list.empty()) return nothing();
  Finding finding;
  finding.confidence = Confidence::proven;
  finding.summary = fmt::format("threads of the VM waited for memory for {}: reclaim, compaction or swap",
                                human(threads.of(State::reclaim)));
  const timeline::Cgroup* cgroup = cgroups_of(c).last;
  bool full = false;
  if (cgroup != nullptr && cgroup->state.memory_max_bytes != UINT64_MAX) {
    full = cgroup->state.memory_current_bytes >= cgroup->state.memory_max_bytes / 100 * 95;
    finding.details["cgroup"] = memory_path(*cgroup);
    finding.details["memory_bytes"] = cgroup->state.memory_current_bytes;
    finding.details["limit_bytes"] = cgroup->state.memory_max_bytes;
    finding.evidence.push_back(
        {cgroup->time_ns, "cgroup",
         fmt::format("{} uses {}; its limit, or that of a group above it, is {}",
                     printable(memory_path(*cgroup), 200), human_bytes(cgroup->state.memory_current_bytes),
                     human_bytes(cgroup->state.memory_max_bytes))});
  }
  if (full)
    finding.summary += fmt::format("; {} is at its limit", printable(memory_path(*cgroup), 200));
  else
    finding.not_proved.push_back({"whose memory ran short, the cgroup's or the host's",
                                  "the probes tell that a thread reclaims, not for whom"});
  add_stalls(c, threads, threads.of(State::reclaim), finding);
  finding.remedy.emplace_back(
      "leave the VM more memory: raise its cgroup's limit, or take load off the host");
  return found(std::move(finding));
}

Opinion judge_main_thread_blocked(const Case& c) {
  if (c.incident.topic != Topic::thread_blocked) return nothing();
  const ThreadStalls threads = thread_stalls_of(c);
  const auto main = std::find_if(threads.list.begin(), threads.list.end(), [](const stalls::Stall& stall) {
    return stall.record.role == static_cast<std::uint32_t>(trace::ThreadRole::main);
  });
  if (main == threads.list.end()) return nothing();
  const State state = stalls::greatest(main->awake());
  Finding finding;
  finding.confidence = Confidence::proven;
  finding.summary = "QEMU's main loop stood: " + stalls::sentence(*main);
  finding.details["thread"] = main->record.tid;
  finding.details["state"] = std::string(stalls::name_of(state));
  if (!main->call.empty()) finding.details["system_call"] = printable(main->call, 64);
  if (!main->descriptor.empty()) finding.details["path"] = printable(main->descriptor, 1024);
  add_stalls(c, threads, main->times[static_cast<std::size_t>(state)], finding);
  add_stack(*main, finding.evidence);
  if (state == State::lock) {
    name_lock_owner(c, *main, finding);
  } else {
    finding.remedy.emplace_back("see what is behind that system call: a slow file, device, pipe or socket");
  }
  return found(std::move(finding));
}

}  // namespace vmwhy::causes
