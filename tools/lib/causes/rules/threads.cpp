// SPDX-License-Identifier: BSD-2-Clause
#include "causes/rules/threads.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <initializer_list>
#include <map>

#include "core/text.hpp"
#include "timeline/thread_topic.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {
namespace {

/// si_code of what the kernel sends by itself.
constexpr std::int32_t kByKernel = 0x80;

/// The last one of these signals from `from` to `until`.
const timeline::ProcessSignal* last_sent(const Case& c, std::uint64_t from, std::uint64_t until,
                                         std::initializer_list<int> numbers) {
  const timeline::ProcessSignal* out = nullptr;
  for (const timeline::ProcessSignal& signal : c.vm.signals) {
    if (signal.time_ns < from || signal.time_ns > until) continue;
    if (signal.signal.what != static_cast<std::uint32_t>(trace::SignalWhat::sent)) continue;
    if (std::find(numbers.begin(), numbers.end(), signal.signal.signal) != numbers.end()) out = &signal;
  }
  return out;
}

std::uint64_t before(std::uint64_t time_ns, std::uint64_t ns) {
  return time_ns - std::min(time_ns, ns);
}

}  // namespace

std::uint64_t saturated(std::uint64_t a, std::uint64_t b) {
  return a + std::min(b, UINT64_MAX - a);
}

char letter(const timeline::Thread& thread) {
  return static_cast<char>(thread.state.state);
}

bool refrigerated(const timeline::Thread& thread) {
  return contains(thread.wchan, "refrigerator") || contains(thread.stack, "__refrigerator");
}

std::vector<const timeline::Thread*> threads_of(const Case& c) {
  std::vector<const timeline::Thread*> threads;
  for (const timeline::Thread& thread : c.vm.threads) {
    if (thread.time_ns + timeline::kSecond < c.begin || thread.time_ns > c.until + timeline::kSecond)
      continue;
    const bool known = std::any_of(threads.begin(), threads.end(), [&](const timeline::Thread* other) {
      return other->state.tid == thread.state.tid;
    });
    if (!known) threads.push_back(&thread);
  }
  return threads;
}

ThreadStalls thread_stalls_of(const Case& c) {
  std::map<std::pair<std::uint32_t, std::uint64_t>, const timeline::ThreadStall*> last;
  for (const timeline::ThreadStall& fact : c.vm.thread_stalls) {
    if (fact.time_ns < c.begin || fact.begin_ns() > c.until) continue;
    if (timeline::topic_of(fact.stall) != c.incident.topic) continue;
    const timeline::ThreadStall*& at = last[{fact.stall.tid, fact.begin_ns()}];
    if (at == nullptr || at->stall.length_ns <= fact.stall.length_ns) at = &fact;
  }
  ThreadStalls out;
  for (const auto& [key, fact] : last) {
    out.list.push_back(stalls::take_apart(fact->time_ns, fact->stall, fact->text));
    for (std::size_t i = 0; i < stalls::kStates; ++i)
      out.times[i] = saturated(out.times[i], out.list.back().times[i]);
  }
  std::stable_sort(out.list.begin(), out.list.end(), [](const stalls::Stall& a, const stalls::Stall& b) {
    return a.record.length_ns > b.record.length_ns;
  });
  return out;
}

Evidence stall_evidence(const stalls::Stall& stall) {
  return {stall.end_ns, "sched", stalls::sentence(stall)};
}

void add_stack(const stalls::Stall& stall, std::vector<Evidence>& evidence) {
  constexpr std::size_t kFrames = 8, kUserFrames = 12;
  std::string stack;
  for (std::size_t i = 0; i < stall.kernel_stack.size() && i < kFrames; ++i)
    stack += (i ? " < " : "") + stall.kernel_stack[i].substr(0, stall.kernel_stack[i].find('+'));
  if (!stack.empty())
    evidence.push_back({stall.end_ns, "sched", "its kernel stack: " + printable(stack, 512)});
  if (!stall.user_stack.empty())
    evidence.push_back({stall.end_ns, "sched",
                        "its stack in QEMU: " + stalls::join_functions(stall.user_stack, kUserFrames)});
}

const timeline::ProcessSignal* ending_signal(const Case& c, int number) {
  const std::uint64_t end = c.vm.ended ? c.vm.ended->time_ns : c.begin;
  return last_sent(c, before(end, timeline::kLookBack), end, {number});
}

const timeline::ProcessSignal* asked_to_end(const Case& c) {
  const timeline::ProcessSignal* signal =
      last_sent(c, before(c.begin, timeline::kLookBack), c.begin, {SIGTERM, SIGINT, SIGHUP});
  return signal != nullptr && signal->signal.code != kByKernel ? signal : nullptr;
}

const timeline::ProcessSignal* stopping_signal(const Case& c) {
  // Who sends another one to a process that stands already did not stop it. A thread's stall ends with the
  // time that it stood, and a little that it waited for a CPU afterwards.
  std::uint64_t stood_ns = 0, since = c.begin;
  for (const stalls::Stall& stall : thread_stalls_of(c).list) {
    if (stall.record.times.stopped_ns <= stood_ns) continue;
    stood_ns = stall.record.times.stopped_ns;
    since = before(stall.end_ns, stood_ns);
  }
  return last_sent(c, before(since, 2 * timeline::kSecond), since, {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU});
}

const timeline::ProcessSignal* oom_victim(const Case& c) {
  for (const timeline::ProcessSignal& signal : c.vm.signals)
    if (signal.signal.what == static_cast<std::uint32_t>(trace::SignalWhat::oom_victim) &&
        signal.time_ns <= c.begin + timeline::kSecond && signal.time_ns + timeline::kLookBack >= c.begin)
      return &signal;
  return nullptr;
}

std::string sender_of(const timeline::ProcessSignal& signal) {
  const std::string who = fmt::format("{} [{}]", printable(signal.sender, 64), signal.signal.sender_pid);
  return signal.signal.code == kByKernel ? fmt::format("the kernel (while {} ran)", who) : who;
}

Evidence signal_evidence(const timeline::ProcessSignal& signal) {
  if (signal.signal.what == static_cast<std::uint32_t>(trace::SignalWhat::oom_victim))
    return {signal.time_ns, "signal",
            fmt::format("mark_victim: process {}, chosen while {} [{}] allocated", signal.signal.pid,
                        printable(signal.sender, 64), signal.signal.sender_pid)};
  return {
      signal.time_ns, "signal",
      fmt::format("signal_generate: signal {} to process {}, code {}, by {}, uid {}", signal.signal.signal,
                  signal.signal.pid, signal.signal.code, sender_of(signal), signal.signal.sender_uid)};
}

void add_sender(const timeline::ProcessSignal& signal, Finding& finding) {
  finding.details["sender_pid"] = signal.signal.sender_pid;
  finding.details["sender_comm"] = printable(signal.sender, 64);
  finding.details["sender_uid"] = signal.signal.sender_uid;
  finding.evidence.push_back(signal_evidence(signal));
}

NotProved no_sender(const Case& c) {
  const auto& sensors = c.timeline.host().sensors;
  const auto sched = sensors.find("sched");
  const bool watched = sched != sensors.end() && sched->second.state != trace::SensorState::off;
  return {"who sent the signal", watched
                                     ? "no such signal was seen: it came before the recording, or was lost"
                                     : "signals were not watched"};
}

}  // namespace vmwhy::causes
