// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One thing that befell a VM, as the timeline found it. Why it happened is for the causes to say.

#include <cstdint>
#include <optional>
#include <string>

#include "timeline/kind.hpp"

namespace vmwhy::timeline {

/// What made the timeline open an incident. A VM has at most one open incident of each topic.
enum class Topic {
  pause,
  stall,     ///< See StallReason.
  postcopy,  ///< Post-copy lost its link: the VM "runs", but waits for pages.
  exit,
  pause_loop,  ///< Paused by I/O errors again and again.
  reset_loop,
  guest_event,  ///< A panic, crash load or watchdog after which the VM goes on.
  memory_failure,
  io_reported,       ///< I/O errors that the guest was told of: no pause.
  migration_failed,  ///< The VM goes on where it was.
  monitor_lost,
  kvm_failure,         ///< KVM could not go on with a vCPU; whether the VM is paused, QMP says.
  exit_storm,          ///< A vCPU spends its time leaving the guest.
  migration_throttle,  ///< A migration keeps the vCPUs from running for half of the time or more.
  host_suspended,      ///< The host slept, and the VM with it.
  storage_slow,  ///< QEMU's storage requests, or the guest's, take long, one after the other, and go well.

  // Threads of QEMU did not get on for longer than the recorder's threshold, by what took most of that time.
  // Threads that a signal, a tracer or the freezer stopped are a `stall`.
  thread_waits,      ///< Ready, and not on a CPU.
  thread_throttled,  ///< Ready, and the CPU quota used up.
  thread_memory,     ///< In reclaim, or asleep for memory.
  thread_blocked,    ///< Asleep in a lock, or in a system call.
  thread_busy,       ///< In KVM or in QEMU, and not in the guest.
};

/// Why a stall is open; it closes when none is left.
enum StallReason : unsigned {
  kNoReply = 1u << 0,       ///< A command is overdue.
  kStopped = 1u << 1,       ///< The process is in T or t.
  kFrozen = 1u << 2,        ///< Its cgroup is frozen.
  kHungThread = 1u << 3,    ///< A thread is in D, and nothing moves.
  kNoGreeting = 1u << 4,    ///< A monitor that nobody else holds does not greet.
  kSilentServer = 1u << 5,  ///< A storage server that QEMU itself speaks to does not answer.
};

struct Incident {
  std::uint64_t id = 0;
  std::uint32_t vm = 0;
  Kind kind = Kind::pause;
  Topic topic = Topic::pause;
  std::string trigger;  ///< Event name, "query-status", or a word for what was seen.
  std::uint64_t begin_ns = 0;
  std::optional<std::uint64_t> end_ns;
  std::string ended_by;
  bool began_before_watch = false;
  std::string run_state;          ///< Of the first query-status in the incident.
  std::uint64_t earliest_ns = 0;  ///< Nothing before this can belong to it (the RESUME before a pause).
  std::uint64_t opened_ns = 0;    ///< Time of the record that opened it.
  bool collected = false;
  std::uint64_t collected_ns = 0;
  std::uint32_t overdue_steps = 0;
  std::string unfinished;     ///< What the collection did not finish.
  unsigned reasons = 0;       ///< StallReason bits that are set now.
  unsigned all_reasons = 0;   ///< … that were ever set.
  std::uint64_t count = 1;    ///< Loops and repeated events: how often.
  std::uint64_t last_ns = 0;  ///< The latest of them.

  /// The last moment that belongs to it; `now_ns` while it is open.
  std::uint64_t until(std::uint64_t now_ns) const { return end_ns ? *end_ns : now_ns; }
};

}  // namespace vmwhy::timeline
