// SPDX-License-Identifier: BSD-2-Clause
#include "clock/clock.hpp"

#include <algorithm>
#include <array>
#include <ctime>

namespace vmwhy::clock {
namespace {

using trace::ClockSnapshot;
// Snapshots come out of files: any value may stand in them, so differences are taken where they cannot
// overflow.
using Wide = __int128;

constexpr std::uint64_t kHourNs = 3'600'000'000'000;
constexpr std::uint64_t kStampNs = 1'000;  // QEMU's stamps are cut to the microsecond.
constexpr std::uint64_t kToleranceNs = 1'000'000;

std::uint64_t read_clock(clockid_t id) {
  timespec ts{};
  ::clock_gettime(id, &ts);
  return static_cast<std::uint64_t>(ts.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(ts.tv_nsec);
}

Wide offset(const ClockSnapshot& s) {
  return Wide(s.realtime_ns) - Wide(s.boottime_ns);
}
Wide magnitude(Wide value) {
  return value < 0 ? -value : value;
}

std::uint64_t clamp64(Wide value) {
  if (value < 0) return 0;
  return value > Wide(UINT64_MAX) ? UINT64_MAX : static_cast<std::uint64_t>(value);
}

// REALTIME was set between the two, or slewed faster than NTP does it (500 ppm).
bool jumped(const ClockSnapshot& a, const ClockSnapshot& b) {
  const Wide allowed = Wide(kToleranceNs) + (Wide(b.boottime_ns) - Wide(a.boottime_ns)) / 1000;
  return magnitude(offset(b) - offset(a)) > allowed;
}

struct Candidate {
  Wide boottime_ns;
  Wide uncertainty_ns;
};

// Where `wall` stood between two neighbours a and b, the latest place not after `limit`.
std::optional<Candidate> within(const ClockSnapshot& a, const ClockSnapshot& b, Wide wall, Wide limit) {
  const Wide begin = a.boottime_ns, end = b.boottime_ns;
  const Wide width = Wide(std::max(a.width_ns, b.width_ns)) + kStampNs;
  if (!jumped(a, b)) {
    if (wall < Wide(a.realtime_ns) || wall > Wide(b.realtime_ns)) return std::nullopt;
    const Wide span = Wide(b.realtime_ns) - Wide(a.realtime_ns);
    if (span <= 0) return std::nullopt;
    // The drift is small by jumped(): the product cannot overflow.
    const Wide since = wall - Wide(a.realtime_ns);
    const Wide at = begin + since + since * (end - begin - span) / span;
    if (at > limit + width) return std::nullopt;
    return Candidate{at, width};
  }
  // The step was somewhere in between: either offset may have held.
  const Wide old_way = wall - offset(a), new_way = wall - offset(b);
  const auto fits = [&](Wide at) { return at >= begin && at <= end && at <= limit + width; };
  if (fits(old_way) && fits(new_way))
    return Candidate{std::max(old_way, new_way), width + magnitude(old_way - new_way)};
  if (fits(new_way)) return Candidate{new_way, width};
  if (fits(old_way)) return Candidate{old_way, width};
  return std::nullopt;
}

}  // namespace

std::uint64_t now_ns() {
  return read_clock(CLOCK_BOOTTIME);
}

trace::ClockSnapshot take_snapshot(trace::ClockReason reason) {
  ClockSnapshot best{};
  best.width_ns = UINT32_MAX;
  for (int i = 0; i < 8; ++i) {
    const std::uint64_t before = read_clock(CLOCK_BOOTTIME);
    const std::uint64_t monotonic = read_clock(CLOCK_MONOTONIC);
    const std::uint64_t realtime = read_clock(CLOCK_REALTIME);
    const std::uint64_t after = read_clock(CLOCK_BOOTTIME);
    const std::uint64_t width = after - before;
    if (i != 0 && width >= best.width_ns) continue;
    best.boottime_ns = before + width / 2;
    best.monotonic_ns = monotonic;
    best.realtime_ns = static_cast<std::int64_t>(realtime);
    best.width_ns = static_cast<std::uint32_t>(std::min<std::uint64_t>(width, UINT32_MAX));
  }
  best.reason = static_cast<std::uint32_t>(reason);
  return best;
}

void ClockMap::add(const ClockSnapshot& snapshot) {
  if (!snapshots_.empty() && snapshot.boottime_ns <= snapshots_.back().boottime_ns) return;
  snapshots_.push_back(snapshot);
}

std::optional<ClockMap::Converted> ClockMap::from_realtime_us(std::int64_t wall_us,
                                                              std::uint64_t near_ns) const {
  if (wall_us < 0 || snapshots_.empty()) return std::nullopt;
  const Wide wall = Wide(wall_us) * 1000;
  const Wide limit = Wide(near_ns) + kToleranceNs;

  std::optional<Candidate> found;
  const ClockSnapshot& last = snapshots_.back();
  const Wide after_last = wall - offset(last);
  const Wide last_width = Wide(last.width_ns) + kStampNs;
  if (after_last >= Wide(last.boottime_ns) && after_last <= limit + last_width)
    found = Candidate{after_last, last_width};
  for (std::size_t i = snapshots_.size(); !found && i-- > 1;) {
    // What begins after the arrival cannot hold the stamp.
    if (Wide(snapshots_[i - 1].boottime_ns) > limit + Wide(UINT32_MAX)) continue;
    found = within(snapshots_[i - 1], snapshots_[i], wall, limit);
  }
  if (!found) {
    const ClockSnapshot& first = snapshots_.front();
    const Wide at = wall - offset(first);
    const Wide width = Wide(first.width_ns) + kStampNs;
    if (at > Wide(first.boottime_ns) || at + Wide(kHourNs) < Wide(first.boottime_ns) || at < 0 ||
        at > limit + width)
      return std::nullopt;
    found = Candidate{at, width};
  }
  // Nothing arrives before it happened: what is later than its arrival is only imprecise.
  const Wide beyond = std::max<Wide>(found->boottime_ns - Wide(near_ns), 0);
  return Converted{clamp64(found->boottime_ns - beyond), clamp64(found->uncertainty_ns + beyond)};
}

std::optional<ClockMap::Converted> ClockMap::from_monotonic_ns(std::uint64_t monotonic_ns) const {
  if (snapshots_.empty()) return std::nullopt;
  auto next = std::upper_bound(snapshots_.begin(), snapshots_.end(), monotonic_ns,
                               [](std::uint64_t v, const ClockSnapshot& s) { return v < s.monotonic_ns; });
  const auto base = next == snapshots_.begin() ? next : next - 1;
  const Wide at = Wide(monotonic_ns) + Wide(base->boottime_ns) - Wide(base->monotonic_ns);
  if (at < 0) return std::nullopt;
  Wide uncertainty = base->width_ns;
  if (next != base && next != snapshots_.end()) {
    // The host slept in between: whether before or after the stamp cannot be told.
    const Wide slept = (Wide(next->boottime_ns) - Wide(next->monotonic_ns)) -
                       (Wide(base->boottime_ns) - Wide(base->monotonic_ns));
    if (magnitude(slept) > Wide(base->width_ns) + Wide(next->width_ns)) uncertainty += magnitude(slept);
  }
  return Converted{clamp64(at), clamp64(uncertainty)};
}

std::optional<std::int64_t> ClockMap::to_realtime_ns(std::uint64_t boottime_ns) const {
  if (snapshots_.empty()) return std::nullopt;
  const auto next =
      std::upper_bound(snapshots_.begin(), snapshots_.end(), boottime_ns,
                       [](std::uint64_t v, const ClockSnapshot& s) { return v < s.boottime_ns; });
  const auto base = next == snapshots_.begin() ? next : next - 1;
  Wide shift = offset(*base);
  if (next != base && next != snapshots_.end() && !jumped(*base, *next)) {
    shift += (offset(*next) - offset(*base)) * (Wide(boottime_ns) - Wide(base->boottime_ns)) /
             (Wide(next->boottime_ns) - Wide(base->boottime_ns));
  }
  const Wide at = Wide(boottime_ns) + shift;
  if (at > Wide(INT64_MAX) || at < Wide(INT64_MIN)) return std::nullopt;
  return static_cast<std::int64_t>(at);
}

bool realtime_stepped(const ClockSnapshot& before, const ClockSnapshot& after, std::uint64_t tolerance_ns) {
  return magnitude(offset(after) - offset(before)) > Wide(tolerance_ns);
}

std::uint64_t suspended_between(const ClockSnapshot& before, const ClockSnapshot& after) {
  const Wide slept = Wide(after.boottime_ns) - Wide(before.boottime_ns) -
                     (Wide(after.monotonic_ns) - Wide(before.monotonic_ns));
  const Wide unsure = Wide(kToleranceNs) + Wide(before.width_ns) + Wide(after.width_ns);
  return slept > unsure ? clamp64(slept) : 0;
}

std::uint64_t Sleep::least_within(std::uint64_t begin_ns, std::uint64_t end_ns) const {
  if (after_ns <= before_ns) return 0;
  const std::uint64_t awake = after_ns - before_ns - std::min(length_ns, after_ns - before_ns);
  const std::uint64_t from = std::max(begin_ns, before_ns), until = std::min(end_ns, after_ns);
  return until > from && until - from > awake ? until - from - awake : 0;
}

}  // namespace vmwhy::clock
