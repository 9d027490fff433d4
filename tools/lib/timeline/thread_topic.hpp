// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Which topic the stall of a thread belongs to. Plain values, any thread.

#include "timeline/incident.hpp"
#include "trace/thread_records.hpp"

namespace vmwhy::timeline {

constexpr bool is_thread_topic(Topic topic) {
  return topic >= Topic::thread_waits && topic <= Topic::thread_busy;
}

/// The times without what the host slept, which is no state of the thread's own.
trace::ThreadTimes awake_times(const trace::ThreadStall& stall);
/// By what took the most of them; `stall` where the thread was stopped or frozen.
Topic topic_of(const trace::ThreadStall& stall);

}  // namespace vmwhy::timeline
