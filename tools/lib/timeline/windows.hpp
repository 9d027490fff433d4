// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The windows of time that incidents go by, in nanoseconds.

#include <cstddef>
#include <cstdint>

#include "trace/records.hpp"

namespace vmwhy::timeline {

constexpr std::uint64_t kSecond = 1'000'000'000;

/// How far before an incident a fact may lie and still belong to it.
constexpr std::uint64_t kLookBack = 10 * kSecond;

/// A pause loop: so many pauses by I/O errors within this window; it is over after so long without one.
constexpr std::size_t kPauseLoopCount = 3;
constexpr std::uint64_t kPauseLoopWindow = 30 * kSecond;
constexpr std::uint64_t kPauseLoopQuiet = 10 * kSecond;

/// A reset loop. Firmware resets devices once or twice more within some 80 ms of each reset: RESET events
/// closer than kResetGroup are one reset.
constexpr std::size_t kResetLoopCount = 3;
constexpr std::uint64_t kResetLoopWindow = 60 * kSecond;
constexpr std::uint64_t kResetLoopQuiet = 30 * kSecond;
constexpr std::uint64_t kResetGroup = 250'000'000;

/// Repeated events of one sort are one incident until none came for this long.
constexpr std::uint64_t kEventQuiet = 10 * kSecond;

/// Stalls of threads are one incident until there was none for this long: short ones far apart are no long
/// one.
constexpr std::uint64_t kThreadQuiet = 2 * kSecond;

/// Two samples of a thread in D must lie this far apart to show that it hangs; and it counts as moving again
/// when no sample has shown it hanging for kHungForgotten.
constexpr std::uint64_t kHungApart = 500'000'000;
constexpr std::uint64_t kHungForgotten = 5 * kSecond;

/// A monitor that closed belongs to a QEMU that ends, if the process is gone within this time.
constexpr std::uint64_t kEndGrace = 2 * kSecond;

/// A tapped client that was connected for this long was no passer-by: the monitor is lost when it goes.
constexpr std::uint64_t kLastingClient = 10 * kSecond;
/// A tapped client that does not read for this long hangs.
constexpr std::uint64_t kClientHangs = 5 * kSecond;

/// An event that has not come so long after QEMU's function is heard by nobody: a client that has not
/// negotiated is told of none.
constexpr std::uint64_t kEventFollows = 2 * kSecond;

/// Facts that come this long after an incident's end may still belong to it (rate-limited events).
constexpr std::uint64_t kSettle = 3 * kSecond;
/// An incident whose evidence is not collected is waited for this long.
constexpr std::uint64_t kCollectionLimit = 60 * kSecond;

/// Facts older than this belong to no incident that may still open.
constexpr std::uint64_t kHorizon = 90 * kSecond;

/// An exit storm: one reason, not a halt, takes a vCPU more than this share of a window of at least this
/// length, by at least so many exits a second. A guest that is busy with I/O stays below the share; few long
/// exits below the rate.
constexpr std::uint64_t kStormWindow = 100'000'000;
constexpr std::uint64_t kStormPercent = 50;
constexpr std::uint64_t kStormRate = 10'000;

/// Storage that is slow: so many requests above the watcher's threshold within this window, and from the
/// first one's begin to the last one's end so long. A burst that waits for one hiccup is none.
constexpr std::size_t kSlowCount = 3;
constexpr std::uint64_t kSlowWindow = 10 * kSecond;
constexpr std::uint64_t kSlowSpan = 2 * kSecond;
/// The same by QEMU's counts of what the guest asked for: above this on average, through at least two
/// windows.
constexpr std::uint64_t kGuestSlow = 50'000'000;
/// A migration that keeps vCPUs from running for so many percent of the time or more makes the VM stall.
constexpr std::int64_t kMigrationThrottle = 50;
/// Sleeps of the host that make incidents, in one trace: each makes one for every VM.
constexpr std::size_t kMaxSuspends = 64;
constexpr std::size_t kMaxSlowNodes = 1024;

constexpr const char* kEndedByStatus = "query-status said running";
/// Trigger and end of a pause that no monitor told of: QEMU's function that sets the run state.
constexpr const char* kRunStateSet = "runstate_set";

inline bool is_exit_storm(const trace::KvmExitSummary& sum) {
  constexpr std::uint64_t kLongest = UINT64_MAX / 100;  // Of what is multiplied below.
  return sum.kind == 0 && sum.halt == 0 && sum.window_ns >= kStormWindow && sum.window_ns < kLongest &&
         sum.total_ns < kLongest && sum.total_ns * 100 > sum.window_ns * kStormPercent &&
         static_cast<double>(sum.count) * 1e9 >
             static_cast<double>(sum.window_ns) * static_cast<double>(kStormRate);
}

}  // namespace vmwhy::timeline
