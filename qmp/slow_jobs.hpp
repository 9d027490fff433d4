// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Runs jobs that may never come back (a read of a sick process's /proc files) on threads that may be left
// behind. A thread that hangs costs its stack until its job ends; the same job is not begun again meanwhile.

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace vmwhy::qmp {

struct SlowJob {
  std::string key;  ///< What it reads, e.g. the process's folder and start time.
  /// Must own what it touches: it may run after everybody else has gone.
  std::function<void()> work;
};

/// Runs `jobs`, several at a time; more threads are added when some hang. Returns when all have ended or the
/// deadline has passed.
/// @return for each job whether it ended. One whose key still hangs from an earlier call is not begun.
std::vector<bool> run_slow_jobs(const std::vector<SlowJob>& jobs, std::chrono::milliseconds deadline);

}  // namespace vmwhy::qmp
