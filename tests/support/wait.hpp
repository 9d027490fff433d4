// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Waiting for something that the test cannot be told of. The deadline is a safety net for a sick machine,
// never a measurement: tests must pass while other programs burn the CPU.

#include <chrono>
#include <functional>

namespace vmwhy::test {

using namespace std::chrono_literals;

/// The deadline of tests that do not care.
inline constexpr std::chrono::milliseconds kPatience = 60s;

using TimePoint = std::chrono::steady_clock::time_point;

inline TimePoint deadline_in(std::chrono::milliseconds time = kPatience) {
  return std::chrono::steady_clock::now() + time;
}

/// Milliseconds left, for poll(2); 0 when it has passed.
int left_ms(TimePoint deadline);

/// True as soon as `predicate` is; false when the deadline passed. Asks every few milliseconds.
bool wait_until(TimePoint deadline, const std::function<bool()>& predicate);
bool wait_until(const std::function<bool()>& predicate);

}  // namespace vmwhy::test
