// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Facts of one sort in order of time, never more than a fixed number of them. Where more come, the middle
// goes: the first ones say what began it, the last ones say how things stand, and the rest is counted.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace vmwhy::timeline {

/// T has a member time_ns (CLOCK_BOOTTIME). Facts of equal time stay in the order in which they came.
template <class T>
class Bounded {
 public:
  explicit Bounded(std::size_t cap) : cap_(cap < 2 ? 2 : cap) {}

  /// @return the fact as it is kept; valid until the next call of a member that is not const.
  T& add(T fact) {
    auto at = std::upper_bound(facts_.begin(), facts_.end(), fact.time_ns,
                               [](std::uint64_t time, const T& other) { return time < other.time_ns; });
    std::size_t index = static_cast<std::size_t>(at - facts_.begin());
    facts_.insert(at, std::move(fact));
    if (facts_.size() > cap_) {
      std::size_t victim = cap_ / 2;
      if (victim == index) ++victim;
      facts_.erase(facts_.begin() + static_cast<std::ptrdiff_t>(victim));
      ++dropped_;
      if (victim < index) --index;
    }
    return facts_[index];
  }

  /// Forgets what is older than `time_ns`, but keeps the newest `keep` facts whatever their age.
  void forget_before(std::uint64_t time_ns, std::size_t keep = 1) {
    std::size_t n = 0;
    while (n + keep < facts_.size() && facts_[n].time_ns < time_ns) ++n;
    if (n > 0) facts_.erase(facts_.begin(), facts_.begin() + static_cast<std::ptrdiff_t>(n));
    if (facts_.size() <= cap_ / 2) dropped_ = 0;
  }

  auto begin() const { return facts_.begin(); }
  auto end() const { return facts_.end(); }
  auto rbegin() const { return facts_.rbegin(); }
  auto rend() const { return facts_.rend(); }
  bool empty() const { return facts_.empty(); }
  std::size_t size() const { return facts_.size(); }
  const T& back() const { return facts_.back(); }
  const T& operator[](std::size_t index) const { return facts_[index]; }

  /// How many were dropped from the middle since the list was last short.
  std::uint64_t dropped() const { return dropped_; }

  /// The first fact at or after `from` and not after `until`; nullptr if there is none.
  const T* first_in(std::uint64_t from, std::uint64_t until) const {
    auto at = std::lower_bound(facts_.begin(), facts_.end(), from,
                               [](const T& other, std::uint64_t time) { return other.time_ns < time; });
    return at != facts_.end() && at->time_ns <= until ? &*at : nullptr;
  }

  /// The last fact at or after `from` and not after `until`.
  const T* last_in(std::uint64_t from, std::uint64_t until) const {
    auto at = std::upper_bound(facts_.begin(), facts_.end(), until,
                               [](std::uint64_t time, const T& other) { return time < other.time_ns; });
    if (at == facts_.begin()) return nullptr;
    --at;
    return at->time_ns >= from ? &*at : nullptr;
  }

 private:
  std::vector<T> facts_;
  std::size_t cap_;
  std::uint64_t dropped_ = 0;
};

}  // namespace vmwhy::timeline
