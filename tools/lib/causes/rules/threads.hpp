// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What rules ask of threads: how they were seen to stand, what the scheduler's probes told of them, and who
// sent a signal. Pure functions of a case.

#include <cstdint>
#include <string>
#include <vector>

#include "causes/rule.hpp"
#include "stalls/times.hpp"

namespace vmwhy::causes {

/// a + b, or the largest number: a stranger's file may hold any.
std::uint64_t saturated(std::uint64_t a, std::uint64_t b);

/// Threads as they were seen in the incident, each once, its first look.
std::vector<const timeline::Thread*> threads_of(const Case& c);
/// 'D', 'S', 'T'.
char letter(const timeline::Thread& thread);
/// It sits in the freezer.
bool refrigerated(const timeline::Thread& thread);

struct ThreadStalls {
  std::vector<stalls::Stall> list;  ///< Each once, as it ended or was seen last; the longest first.
  stalls::Times times{};            ///< Sums.

  std::uint64_t of(stalls::State state) const { return times[static_cast<std::size_t>(state)]; }
};
/// The stalls that the incident is made of.
ThreadStalls thread_stalls_of(const Case& c);
Evidence stall_evidence(const stalls::Stall& stall);
/// The kernel stack of its longest sleep, where there is one.
void add_stack(const stalls::Stall& stall, std::vector<Evidence>& evidence);

/// The signal that ended QEMU, with this number; null: not seen.
const timeline::ProcessSignal* ending_signal(const Case& c, int number);
/// Somebody asked it to end (SIGTERM, SIGINT, SIGHUP) shortly before it exited by itself.
const timeline::ProcessSignal* asked_to_end(const Case& c);
/// The signal that stopped it; null: not seen.
const timeline::ProcessSignal* stopping_signal(const Case& c);
/// The OOM killer chose it shortly before it ended.
const timeline::ProcessSignal* oom_victim(const Case& c);

/// "bash [999]", "the kernel (while bash [999] ran)".
std::string sender_of(const timeline::ProcessSignal& signal);
Evidence signal_evidence(const timeline::ProcessSignal& signal);
/// Details and evidence: who sent it.
void add_sender(const timeline::ProcessSignal& signal, Finding& finding);
/// Why nobody is named: "signals were not watched", or that none was seen though they were.
NotProved no_sender(const Case& c);

}  // namespace vmwhy::causes
