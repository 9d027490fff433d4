// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Reading the host's clocks together, and converting between them by snapshots. A trace's time is
// CLOCK_BOOTTIME: it runs on while the host sleeps and is never stepped. QMP stamps are CLOCK_REALTIME,
// kernel log stamps are CLOCK_MONOTONIC-like (sched_clock).

#include <cstdint>
#include <optional>
#include <vector>

#include "trace/records.hpp"

namespace vmwhy::clock {

/// CLOCK_BOOTTIME, ns.
std::uint64_t now_ns();

/// Reads BOOTTIME, MONOTONIC, REALTIME, several times, and keeps the narrowest reading.
trace::ClockSnapshot take_snapshot(trace::ClockReason reason);

/// Converts stamps of other clocks into trace time by the snapshots of a trace. A stamp that no snapshot
/// covers is not guessed at.
class ClockMap {
 public:
  /// Snapshots come in order of boottime; one out of order is ignored.
  void add(const trace::ClockSnapshot& snapshot);
  bool empty() const { return snapshots_.empty(); }

  struct Converted {
    std::uint64_t boottime_ns;
    std::uint64_t uncertainty_ns;
  };

  /// @param wall_us  CLOCK_REALTIME, µs since the epoch; a negative stamp (QEMU's -1) gives nothing.
  /// @param near_ns  CLOCK_BOOTTIME of its arrival: where REALTIME was stepped back the same stamp occurs
  /// twice,
  ///                 and the latest occurrence that is not after the arrival is taken.
  /// @return nothing if the stamp lies more than an hour before the first snapshot or after `near_ns` by more
  /// than
  ///         the uncertainty of the snapshots around it plus 1 ms.
  std::optional<Converted> from_realtime_us(std::int64_t wall_us, std::uint64_t near_ns) const;

  /// CLOCK_MONOTONIC to CLOCK_BOOTTIME by the last snapshot not after it (the first one for earlier stamps).
  std::optional<Converted> from_monotonic_ns(std::uint64_t monotonic_ns) const;

  /// CLOCK_REALTIME of a trace time, ns since the epoch; nothing without a snapshot.
  std::optional<std::int64_t> to_realtime_ns(std::uint64_t boottime_ns) const;

 private:
  std::vector<trace::ClockSnapshot> snapshots_;
};

/// Whether REALTIME moved against BOOTTIME by more than `tolerance_ns` between two snapshots.
bool realtime_stepped(const trace::ClockSnapshot& before, const trace::ClockSnapshot& after,
                      std::uint64_t tolerance_ns = 1'000'000);

/// For how long the host slept between two snapshots: BOOTTIME went on, and MONOTONIC did not. 0: not at all,
/// or less than the readings are sure of.
std::uint64_t suspended_between(const trace::ClockSnapshot& before, const trace::ClockSnapshot& after);

/// A sleep of the host, somewhere between two readings (CLOCK_BOOTTIME).
struct Sleep {
  std::uint64_t before_ns = 0, after_ns = 0;
  std::uint64_t length_ns = 0;

  /// How much of [begin_ns, end_ns] it took at least, wherever between the readings it lay.
  std::uint64_t least_within(std::uint64_t begin_ns, std::uint64_t end_ns) const;
};

}  // namespace vmwhy::clock
