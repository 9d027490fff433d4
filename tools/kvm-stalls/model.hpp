// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What a run found out: the time of each thread in a window, and the stalls. Plain values; pure functions.

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "bpf/load/stalls.hpp"
#include "clock/clock.hpp"
#include "stalls/times.hpp"

namespace vmwhy::kvm_stalls {

struct Thread {
  std::uint32_t pid = 0, tid = 0;
  std::string comm;
  trace::ThreadRole role = trace::ThreadRole::other;
  std::int32_t vcpu = -1;
};

/// One thread in one window.
struct Share {
  Thread thread;
  std::uint64_t window_ns = 0;  ///< Of this thread: it may have begun or ended within the report's window.
  stalls::Times times{};
  std::vector<stalls::Culprit> culprits;  ///< The longest first.
  std::uint64_t others_ns = 0;
  std::uint64_t stalls = 0;  ///< That ended.

  /// Sorts the culprits; what is not theirs of all that was blamed on somebody is others'.
  void set_blamed(std::uint64_t blamed_ns);
  /// How far the times are from adding up to the window, as a part of it.
  double error() const;
};

struct Signal {
  std::uint64_t time_ns = 0;
  trace::ProcessSignal record{};
  std::string sender;
};

struct Report {
  std::uint64_t window_ns = 0;
  std::vector<Share> threads;         ///< By process, then as their roles matter.
  std::vector<stalls::Stall> stalls;  ///< The worst, the longest first.
  std::uint64_t all_stalls = 0;       ///< How many there were.
  std::vector<Signal> signals;
  std::vector<clock::Sleep> sleeps;            ///< Of the host.
  std::map<std::uint32_t, std::string> names;  ///< Of VMs, by process id.
  std::vector<bpf::StallsProbe> probes;
  bpf::StallsLosses losses;
  std::vector<std::string> notes;  ///< What a reader must know: what could not be seen, and why.
};

/// What a row had counted at some time: windows are differences of two.
struct Counted {
  std::uint64_t time_ns = 0;
  stalls::Times times{};
  /// By pid, tid and when it got its place in the table: it may lose it and come back.
  std::map<std::tuple<std::uint32_t, std::uint32_t, std::uint64_t>, stalls::Culprit> culprits;
  std::uint64_t blamed_ns = 0;  ///< By `culprits` and others.
  std::uint64_t stalls = 0;
};
/// @param now_ns  When the row was read: the state that it is in has lasted until then.
Counted count(const stalls_thread& row, std::uint64_t now_ns);
Share between(const Thread& thread, const Counted& before, const Counted& after);

/// A stall as the probe tells it, and the sleep that its stack belongs to.
struct Seen {
  stalls::Stall stall;
  stalls_block block{};
  std::uint32_t slot = 0;
  bool again = false;  ///< The same stall was told before.
};
Seen make_stall(const Thread& thread, const stalls_stall& raw);
/// It has not ended by `now_ns`: the present state's time is added.
Seen make_ongoing(const Thread& thread, const stalls_thread& row, std::uint64_t now_ns);

/// A signal as the probe tells it, or the OOM killer's choice.
Signal make_signal(const stalls_signal& raw);
/// "SIGSTOP".
std::string signal_name(int number);
/// "SIGSTOP to 4242 by bash [999] (uid 0)".
std::string describe(const Signal& signal);

/// The order in which threads are listed: main, vCPUs by number, iothreads, others.
bool listed_before(const Thread& a, const Thread& b);

}  // namespace vmwhy::kvm_stalls
