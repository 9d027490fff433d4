// SPDX-License-Identifier: BSD-2-Clause
#include "wait.hpp"

#include <algorithm>
#include <thread>

namespace vmwhy::test {

int left_ms(TimePoint deadline) {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::max<std::int64_t>(0, left.count()));
}

bool wait_until(TimePoint deadline, const std::function<bool()>& predicate) {
  for (;;) {
    const bool last = std::chrono::steady_clock::now() >= deadline;
    if (predicate()) return true;
    if (last) return false;
    std::this_thread::sleep_for(3ms);
  }
}

bool wait_until(const std::function<bool()>& predicate) {
  return wait_until(deadline_in(), predicate);
}

}  // namespace vmwhy::test
