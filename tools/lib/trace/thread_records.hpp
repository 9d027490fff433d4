// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Records 88 to 95: where the time of QEMU's threads goes, and signals to them. The rules of records.hpp
// hold. Apart from there because few need them.

#include "trace/records.hpp"

namespace vmwhy::trace {

/// Where a thread's time goes, nanoseconds by state; lib/stalls names them for people. They add up to the
/// time that the record tells of.
struct ThreadTimes {
  std::uint64_t unknown_ns;    ///< From the beginning until something told.
  std::uint64_t running_ns;    ///< On a CPU; guest, KVM and QEMU are not told apart.
  std::uint64_t guest_ns;      ///< From kvm_entry to kvm_exit.
  std::uint64_t kvm_ns;        ///< From kvm_exit to kvm_entry, on a CPU, in the kernel.
  std::uint64_t qemu_ns;       ///< Out of KVM_RUN, on a CPU.
  std::uint64_t halted_ns;     ///< Asleep in KVM_RUN.
  std::uint64_t halt_poll_ns;  ///< KVM polled before it put a halted vCPU to sleep.
  std::uint64_t waiting_ns;    ///< Ready, and another ran.
  std::uint64_t throttled_ns;  ///< Ready, and the CFS quota was used up.
  std::uint64_t idle_ns;       ///< Asleep until there is something to do.
  std::uint64_t lock_ns;       ///< Asleep in a futex that is a lock.
  std::uint64_t blocked_ns;    ///< Asleep, interruptible, in any other system call.
  std::uint64_t disk_ns;       ///< Asleep, uninterruptible.
  std::uint64_t reclaim_ns;    ///< In direct reclaim, or asleep for memory.
  std::uint64_t stopped_ns;    ///< By SIGSTOP and its like, or by a tracer.
  std::uint64_t frozen_ns;     ///< By its cgroup's freezer.
};
static_assert(sizeof(ThreadTimes) == 128);

/// The time of one thread in a window that ends at the header's time. Text: comm NUL culprits: who ran while
/// it waited, a line each, "NS TID PID COMM", the longest first; TID 0: the CPU was idle.
struct ThreadTime {
  static constexpr RecordType kType = RecordType{88};  // thread_time
  std::uint64_t window_ns;
  ThreadTimes times;
  std::uint64_t others_ns;  ///< Waited while threads ran that are not listed.
  std::uint32_t pid;
  std::uint32_t tid;
  std::uint32_t role;  ///< A ThreadRole.
  std::int32_t vcpu;   ///< -1: no vCPU, or not known.
};
static_assert(sizeof(ThreadTime) == 160);

/// Bits of ThreadStall::flags.
enum ThreadStallFlag : std::uint32_t {
  kStallOngoing = 1u << 0,    ///< It has not ended: it is longer by now.
  kStallGuestTold = 1u << 1,  ///< kvm_entry and kvm_exit told guest, KVM and QEMU apart.
};

/// A thread did not get on. Header time: its end; ongoing: when it was seen. Text: comm NUL name of the
/// system call NUL wchan NUL what the system call's descriptor is NUL culprits as above NUL kernel stack (a
/// line for each frame) NUL user stack (a line for each frame: name TAB build id "+0x" address in that file)
/// NUL who held the lock, each empty where it is not known.
struct ThreadStall {
  static constexpr RecordType kType = RecordType{89};  // thread_stall
  std::uint64_t length_ns;
  ThreadTimes times;
  std::uint64_t others_ns;
  std::uint64_t block_ns;  ///< The longest sleep in it, which the stack belongs to; 0: none.
  std::uint64_t argument;  ///< First of that sleep's system call.
  std::uint32_t pid;
  std::uint32_t tid;
  std::uint32_t role;
  std::int32_t vcpu;
  std::uint32_t flags;
  std::uint32_t state;      ///< Now, where it goes on; else that of the longest sleep. Index of ThreadTimes.
  std::int32_t syscall;     ///< -1: none.
  std::uint32_t cpu;        ///< That it waited for last.
  std::uint32_t exit_code;  ///< Reason of the vCPU's last exit; UINT32_MAX: none seen.
  std::int32_t user_code;   ///< KVM_EXIT_* of its last exit to QEMU; -1: none seen.
  std::uint32_t isa;        ///< 1 VMX, 2 SVM, 3 arm64, 4 PVM; 0: not known.
  std::uint32_t reserved;
  std::uint64_t suspended_ns;  ///< At least so much of it the host itself slept; in `times` it is frozen_ns,
                               ///< or disk_ns.
  std::uint32_t lock_owner;    ///< State lock: the thread that held it when that sleep began; 0: not known.
  std::uint32_t reserved2;
};
static_assert(sizeof(ThreadStall) == 224);

enum class SignalWhat : std::uint32_t {
  sent = 1,        ///< signal_generate.
  oom_victim = 2,  ///< The OOM killer chose the process; `sender` is whose allocation failed.
};

/// A signal that stops, ends or kills, sent to a QEMU. Text: comm of the sender.
struct ProcessSignal {
  static constexpr RecordType kType = RecordType{90};  // process_signal
  std::uint32_t pid;                                   ///< The target.
  std::uint32_t tid;
  std::uint32_t what;  ///< A SignalWhat.
  std::int32_t signal;
  std::int32_t code;    ///< si_code: 0 by kill(2), 128 by the kernel.
  std::int32_t result;  ///< Of signal_generate: 0 delivered, 1 ignored, 2 pending already.
  std::uint32_t sender_pid;
  std::uint32_t sender_tid;
  std::uint32_t sender_uid;
  std::uint32_t reserved;
};
static_assert(sizeof(ProcessSignal) == 40);

/// The thermal throttle counters of one CPU that grew in a window that ends at the header's time, as
/// /sys/devices/system/cpu/cpuN/thermal_throttle has them. vm is 0. No text.
struct CpuThrottle {
  static constexpr RecordType kType = RecordType{91};  // cpu_throttle
  std::uint64_t window_ns;
  std::uint64_t core_events;     ///< By how much they grew.
  std::uint64_t package_events;  ///< The same for every CPU of a package.
  std::uint64_t core_ms;         ///< For how long it was throttled; 0 too where the kernel does not say.
  std::uint64_t package_ms;
  std::uint32_t cpu;
  std::uint32_t reserved;
};
static_assert(sizeof(CpuThrottle) == 48);

}  // namespace vmwhy::trace
