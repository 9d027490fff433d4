// SPDX-License-Identifier: BSD-2-Clause
#include "clock/clock.hpp"

#include <gtest/gtest.h>

namespace vmwhy::clock {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::int64_t kEpoch = 1'795'392'000'000'000'000;  // REALTIME at boot in these tests, ns.

trace::ClockSnapshot at(std::uint64_t boot_ns, std::int64_t shift_ns = 0, std::uint64_t slept_ns = 0) {
  trace::ClockSnapshot s{};
  s.boottime_ns = boot_ns;
  s.monotonic_ns = boot_ns - slept_ns;
  s.realtime_ns = kEpoch + static_cast<std::int64_t>(boot_ns) + shift_ns;
  s.width_ns = 200;
  return s;
}

std::int64_t wall_us(std::uint64_t boot_ns, std::int64_t shift_ns = 0) {
  return (kEpoch + static_cast<std::int64_t>(boot_ns) + shift_ns) / 1000;
}

TEST(Clock, SnapshotReadsTheClocksTogether) {
  const std::uint64_t before = now_ns();
  const trace::ClockSnapshot s = take_snapshot(trace::ClockReason::tick);
  const std::uint64_t after = now_ns();
  EXPECT_GE(s.boottime_ns, before);
  EXPECT_LE(s.boottime_ns, after);
  EXPECT_LE(s.monotonic_ns, after);
  EXPECT_GT(s.realtime_ns, 0);
  EXPECT_EQ(s.reason, static_cast<std::uint32_t>(trace::ClockReason::tick));
  EXPECT_LE(s.width_ns, after - before);
}

TEST(Clock, WithoutASnapshotNothingIsConverted) {
  const ClockMap map;
  EXPECT_TRUE(map.empty());
  EXPECT_FALSE(map.from_realtime_us(wall_us(kSecond), kSecond));
  EXPECT_FALSE(map.from_monotonic_ns(1));
  EXPECT_FALSE(map.to_realtime_ns(1));
}

TEST(Clock, MinusOneGivesNothing) {
  ClockMap map;
  map.add(at(kSecond));
  EXPECT_FALSE(map.from_realtime_us(-1, kSecond));
}

TEST(Clock, ConvertsBetweenAndAroundSnapshots) {
  ClockMap map;
  map.add(at(10 * kSecond));
  map.add(at(11 * kSecond));
  for (const std::uint64_t boot : {9 * kSecond, 10 * kSecond + 400'000, 11 * kSecond + kSecond / 2}) {
    const auto got = map.from_realtime_us(wall_us(boot), boot + 1000);
    ASSERT_TRUE(got) << boot;
    EXPECT_EQ(got->boottime_ns, boot);
    EXPECT_EQ(got->uncertainty_ns, 1200u) << "width and the microsecond of the stamp";
  }
  EXPECT_FALSE(map.from_realtime_us(wall_us(10 * kSecond, -3601 * std::int64_t{1'000'000'000}), 11 * kSecond))
      << "more than an hour before the first snapshot";
  EXPECT_FALSE(map.from_realtime_us(wall_us(12 * kSecond), 11 * kSecond)) << "after its arrival";
}

TEST(Clock, AStampALittleAfterItsArrivalIsItsArrival) {
  ClockMap map;
  map.add(at(10 * kSecond));
  const auto got = map.from_realtime_us(wall_us(10 * kSecond + 500'000), 10 * kSecond);
  ASSERT_TRUE(got);
  EXPECT_EQ(got->boottime_ns, 10 * kSecond);
  EXPECT_EQ(got->uncertainty_ns, 1200u + 500'000u);
}

TEST(Clock, ASlewIsInterpolated) {
  ClockMap map;
  map.add(at(10 * kSecond));
  map.add(at(11 * kSecond, 400'000));
  const auto got = map.from_realtime_us(wall_us(10 * kSecond + kSecond / 2, 200'000), 11 * kSecond);
  ASSERT_TRUE(got);
  EXPECT_NEAR(static_cast<double>(got->boottime_ns), 10.5e9, 1000);
  EXPECT_EQ(map.to_realtime_ns(10 * kSecond + kSecond / 2),
            kEpoch + static_cast<std::int64_t>(10 * kSecond + kSecond / 2) + 200'000);
}

TEST(Clock, AStepForwardKeepsBothSidesAndRefusesTheGap) {
  const std::int64_t hour = 3'600'000'000'000;
  ClockMap map;
  map.add(at(10 * kSecond));
  map.add(at(11 * kSecond));
  map.add(at(12 * kSecond, hour));
  map.add(at(13 * kSecond, hour));
  EXPECT_EQ(map.from_realtime_us(wall_us(10 * kSecond + 5'000), 20 * kSecond)->boottime_ns,
            10 * kSecond + 5'000);
  EXPECT_EQ(map.from_realtime_us(wall_us(12 * kSecond + 5'000, hour), 20 * kSecond)->boottime_ns,
            12 * kSecond + 5'000);
  EXPECT_EQ(map.from_realtime_us(wall_us(11 * kSecond + kSecond / 2), 20 * kSecond)->boottime_ns,
            11 * kSecond + kSecond / 2)
      << "still the old time";
  EXPECT_FALSE(map.from_realtime_us(wall_us(12 * kSecond, hour / 2), 20 * kSecond)) << "this time never was";
}

TEST(Clock, AfterAStepBackTheLatestOccurrenceBeforeTheArrivalIsTaken) {
  const auto back = -static_cast<std::int64_t>(5 * kSecond);
  ClockMap map;
  for (std::uint64_t s = 10; s <= 20; ++s) map.add(at(s * kSecond));
  for (std::uint64_t s = 21; s <= 30; ++s) map.add(at(s * kSecond, back));
  const std::int64_t stamp = wall_us(18 * kSecond);  // Again at 23 s.
  EXPECT_EQ(map.from_realtime_us(stamp, 30 * kSecond)->boottime_ns, 23 * kSecond);
  EXPECT_EQ(map.from_realtime_us(stamp, 22 * kSecond)->boottime_ns, 18 * kSecond);
}

TEST(Clock, AnAmbiguousStampInsideASteppedSecondSaysSo) {
  ClockMap map;
  map.add(at(10 * kSecond));
  map.add(at(11 * kSecond, -static_cast<std::int64_t>(kSecond / 5)));
  const auto got = map.from_realtime_us(wall_us(10 * kSecond + kSecond / 2), 20 * kSecond);
  ASSERT_TRUE(got);
  EXPECT_EQ(got->boottime_ns, 10 * kSecond + kSecond / 2 + kSecond / 5);
  EXPECT_EQ(got->uncertainty_ns, 1200u + kSecond / 5);
}

TEST(Clock, ASnapshotOutOfOrderIsIgnored) {
  ClockMap map;
  map.add(at(10 * kSecond));
  map.add(at(9 * kSecond, 77));
  map.add(at(10 * kSecond, 77));
  EXPECT_EQ(map.to_realtime_ns(10 * kSecond), kEpoch + static_cast<std::int64_t>(10 * kSecond));
}

TEST(Clock, MonotonicFollowsTheSnapshotBeforeIt) {
  ClockMap map;
  map.add(at(10 * kSecond));
  map.add(at(20 * kSecond, 0, 4 * kSecond));  // The host slept four seconds.
  EXPECT_EQ(map.from_monotonic_ns(9 * kSecond)->boottime_ns, 9 * kSecond);
  EXPECT_EQ(map.from_monotonic_ns(12 * kSecond)->boottime_ns, 12 * kSecond);
  EXPECT_GE(map.from_monotonic_ns(12 * kSecond)->uncertainty_ns, 4 * kSecond);
  EXPECT_EQ(map.from_monotonic_ns(17 * kSecond)->boottime_ns, 21 * kSecond);
  EXPECT_LT(map.from_monotonic_ns(17 * kSecond)->uncertainty_ns, 1000u);
}

TEST(Clock, AnyValuesInSnapshotsAreSurvived) {
  const std::int64_t reals[] = {INT64_MIN, -1, 0, INT64_MAX};
  const std::uint64_t boots[] = {1, 1u << 20, UINT64_MAX / 2, UINT64_MAX};
  for (const std::int64_t first : reals) {
    for (const std::int64_t second : reals) {
      ClockMap map;
      for (const std::uint64_t boot : boots) {
        map.add({boot, UINT64_MAX - boot, boot % 2 == 0 ? first : second, UINT32_MAX, 0});
        map.from_realtime_us(INT64_MAX, UINT64_MAX);
        map.from_realtime_us(0, 0);
        map.from_monotonic_ns(UINT64_MAX);
        map.from_monotonic_ns(0);
        map.to_realtime_ns(UINT64_MAX);
        map.to_realtime_ns(0);
      }
      EXPECT_FALSE(map.empty());
    }
  }
}

TEST(Clock, TellsForHowLongTheHostSlept) {
  const trace::ClockSnapshot before = at(10 * kSecond);
  EXPECT_EQ(suspended_between(before, at(20 * kSecond, 0, 4 * kSecond)), 4 * kSecond);
  EXPECT_EQ(suspended_between(before, at(20 * kSecond, 3 * std::int64_t{kSecond})), 0u) << "REALTIME was set";
  EXPECT_EQ(suspended_between(before, at(20 * kSecond, 0, 900'000)), 0u)
      << "less than the readings are sure of";
  EXPECT_EQ(suspended_between(at(20 * kSecond, 0, 4 * kSecond), before), 0u);
  EXPECT_EQ(suspended_between({UINT64_MAX, 0, 0, UINT32_MAX, 0}, {0, UINT64_MAX, 0, UINT32_MAX, 0}), 0u);
}

TEST(Clock, SaysOfASpanOnlyWhatTheHostSleptAtLeast) {
  const Sleep sleep{10 * kSecond, 21 * kSecond,
                    10 * kSecond};  // One second of it was awake; nobody knows which.
  EXPECT_EQ(sleep.least_within(5 * kSecond, 30 * kSecond), 10 * kSecond);
  EXPECT_EQ(sleep.least_within(12 * kSecond, 20 * kSecond), 7 * kSecond);
  EXPECT_EQ(sleep.least_within(12 * kSecond, 13 * kSecond), 0u);
  EXPECT_EQ(sleep.least_within(30 * kSecond, 40 * kSecond), 0u);
  EXPECT_EQ((Sleep{5, 5, 100}).least_within(0, UINT64_MAX), 0u);
}

TEST(Clock, TellsAStepFromASlew) {
  EXPECT_FALSE(realtime_stepped(at(kSecond), at(2 * kSecond, 900'000)));
  EXPECT_TRUE(realtime_stepped(at(kSecond), at(2 * kSecond, 1'100'000)));
  EXPECT_TRUE(realtime_stepped(at(kSecond), at(2 * kSecond, -1'100'000)));
  EXPECT_TRUE(realtime_stepped(at(kSecond), at(2 * kSecond, 900'000), 1000));
}

}  // namespace
}  // namespace vmwhy::clock
