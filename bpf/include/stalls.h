/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* What the probe family stalls and user space share. Valid C11 and C++20. All times are nanoseconds of
 * CLOCK_BOOTTIME or durations. */

#include <linux/types.h>

enum {
  STALLS_STATES = 16,
  STALLS_CULPRITS = 16,    /* Of a thread: those that run while it waits. */
  STALLS_ONE_CULPRITS = 8, /* Of one stall. */
  STALLS_FRAMES = 20,      /* Of a kernel stack. */
  STALLS_PAGE_TIDS = 1024, /* Thread ids of one page of the table from thread to slot. */
  STALLS_FILTER = 4096,    /* Bits of the filter that nearly all threads which are not registered end at. */
  STALLS_WAITERS = 8,      /* Threads waiting for one CPU that culprits are found for. */
  STALLS_EXIT_CODES = 256, /* Exit reasons that KVM's time is split by. */
  STALLS_USER_CODES = 64,  /* KVM_EXIT_* that QEMU's time is split by. */
  STALLS_REGISTERS = 34,   /* Room for those of user space, as the kernel keeps them. */
  STALLS_USER_CHUNK = 1024,
  STALLS_USER_CHUNKS = 8, /* Of the user stack, beginning at the stack pointer. */
};

/* Where a thread's time goes. */
enum stalls_state {
  STALLS_UNKNOWN = 0,   /* Since it was registered, nothing has told. */
  STALLS_RUNNING = 1,   /* On a CPU; guest, KVM and QEMU are not told apart. */
  STALLS_GUEST = 2,     /* From kvm_entry to kvm_exit. */
  STALLS_KVM = 3,       /* From kvm_exit to kvm_entry, on a CPU, in the kernel. */
  STALLS_QEMU = 4,      /* Out of KVM_RUN, on a CPU. */
  STALLS_HALTED = 5,    /* Asleep in KVM_RUN: the guest halted. */
  STALLS_HALT_POLL = 6, /* KVM polled before it put a halted vCPU to sleep. */
  STALLS_WAITING = 7,   /* Ready, and another runs. */
  STALLS_THROTTLED = 8, /* Ready, and the CFS quota of its cgroup is used up. */
  STALLS_IDLE = 9,      /* Asleep until there is something to do: poll, a condition variable, a timer. */
  STALLS_LOCK = 10,     /* Asleep in a futex that is a lock. */
  STALLS_BLOCKED = 11,  /* Asleep, interruptible, in any other system call. */
  STALLS_DISK = 12,     /* Asleep, uninterruptible: D. */
  STALLS_RECLAIM =
      13, /* In direct reclaim, or asleep for memory (reclaim, compaction, swap-in, memory.high). */
  STALLS_STOPPED = 14, /* By SIGSTOP and its like, or by a tracer. */
  STALLS_FROZEN = 15,  /* By its cgroup's freezer. */
};

enum stalls_probe {
  STALLS_PROBE_SWITCH = 0,
  STALLS_PROBE_WAKEUP = 1,
  STALLS_PROBE_MIGRATE = 2,
  STALLS_PROBE_EXIT = 3,
  STALLS_PROBE_SIGNAL = 4,
  STALLS_PROBE_VICTIM = 5,
  STALLS_PROBE_RECLAIM_BEGIN = 6,
  STALLS_PROBE_RECLAIM_END = 7,
  STALLS_PROBE_MEMCG_BEGIN = 8,
  STALLS_PROBE_MEMCG_END = 9,
  STALLS_PROBE_KVM_ENTRY = 10,
  STALLS_PROBE_KVM_EXIT = 11,
  STALLS_PROBE_KVM_USERSPACE = 12,
  STALLS_PROBE_KVM_FPU = 13,
  STALLS_PROBE_KVM_WAKEUP = 14,
  STALLS_PROBE_EXEC = 15,
  STALLS_PROBES = 16,
};

/* Rows of stalls_stats, behind one row of hits for each probe. */
enum stalls_stat {
  STALLS_STAT_RING_FULL = STALLS_PROBES, /* Stalls, signals and ends that did not fit into the ring. */
  STALLS_STAT_WAITERS_FULL,              /* Waits whose culprits are not known. */
  STALLS_STAT_READ_FAILED,               /* Kernel memory that could not be read. */
  STALLS_STAT_SWITCH_MISSED,             /* Switches that were not told of, next to registered threads. */
  STALLS_STATS,
};

/* A thread that ran while another waited. tid 0: the CPU was idle. */
struct stalls_culprit {
  __u32 tid;
  __u32 tgid;
  __u64 born_ns; /* The kernel's task_struct.start_time: tells apart who had the same ids after each other. */
  char comm[16];
  __u64 ns;
  __u64 rank_ns;   /* With what those before it in its place had; 0 in a stall. */
  __u64 placed_ns; /* Since when `ns` counts; 0 in a stall. */
};

enum stalls_message {
  STALLS_MESSAGE_STALL = 1,
  STALLS_MESSAGE_SIGNAL = 2,
  STALLS_MESSAGE_VICTIM = 3, /* The OOM killer has chosen a process. */
  STALLS_MESSAGE_EXIT = 4,   /* A process ended: the exit of its main thread. */
  STALLS_MESSAGE_EXEC = 6,   /* A process became another program: `sender_comm` is what it is called now. */
  STALLS_MESSAGE_USER = 5,   /* The user stack of the longest sleep of the stall that comes next. */
};

/* What is known of the time that a thread sleeps in. */
struct stalls_block {
  __u64 ns;       /* 0: it has not ended. */
  __u64 argument; /* First of the system call: mostly a file descriptor. */
  __u64 user_ip;
  __s32 syscall; /* -1: none, an exception. */
  __u32 state;   /* An enum stalls_state. */
  __s32 frames;  /* Bytes of `stack`, or minus errno. */
  __u32 user;    /* 1 or 2: which of the thread's two user stacks is this sleep's; 0: none was kept. */
  __u64 since_ns;
  __u32 lock_owner; /* State lock: the thread that held it then, as the process itself numbers threads; 0: not
                       known. */
  __u32 reserved;
  __u64 stack[STALLS_FRAMES];
};

/* What the callers in user space are found by. Two for each thread: one is kept while the next is taken. Also
 * what travels through the ring. */
struct stalls_user {
  __u32 message; /* STALLS_MESSAGE_USER. */
  __u32 slot;
  __u32 tid;
  __u32 bytes;    /* Of `stack`. */
  __u64 begin_ns; /* Of the stall. */
  __u64 since_ns; /* Of the sleep; 0 while it is written. */
  __u64 registers[STALLS_REGISTERS];
  char stack[STALLS_USER_CHUNKS][STALLS_USER_CHUNK];
};

/* A stretch of time in which a thread did not get on. Also what travels through the ring when it has ended.
 */
struct stalls_stall {
  __u32 message; /* STALLS_MESSAGE_STALL. */
  __u32 tid;
  __u32 tgid;
  __u32 slot;
  __u64 begin_ns; /* 0: there is none. */
  __u64 end_ns;
  __u64 ns[STALLS_STATES];
  __u64 others_ns; /* Waited while threads ran that found no place in `culprits`. */
  struct stalls_culprit culprits[STALLS_ONE_CULPRITS];
  __u32 cpu;                 /* That it waited for last. */
  __u32 exit_code;           /* Of the last kvm_exit. */
  __s32 user_code;           /* KVM_EXIT_* of the last kvm_userspace_exit. */
  __u32 dirty;               /* The probe's own. */
  struct stalls_block block; /* The longest. */
};

/* One registered thread. Its events are serialized by the scheduler, so it has one writer at a time; a reader
 * copies it while `seq` is even and unchanged. */
struct stalls_thread {
  __u64 pid_tgid; /* As bpf_get_current_pid_tgid(). */
  __u32 seq;
  __u32 state; /* An enum stalls_state; STALLS_STATES: it ended. */
  __u64 since_ns;
  __u64 threshold_ns;
  __u32 good;    /* Bit mask of the states in which it gets on, or has nothing to do. */
  __u32 phase;   /* What it does when it is on a CPU. */
  __s32 vcpu_id; /* KVM's; -1: not known. */
  __u32 reserved;
  __u32 reclaim; /* Depth of direct reclaims. */
  __u32 wait_cpu;
  __u64 charged_ns; /* Until when culprits of the present wait are known. */
  __u64 ns[STALLS_STATES];
  __u64 stalls;    /* That ended, above the threshold. */
  __u64 blamed_ns; /* Waited while it was known who ran, those included that `culprits` has let go. */
  struct stalls_culprit culprits[STALLS_CULPRITS];
  __u64 kvm_ns[STALLS_EXIT_CODES]; /* By the low byte of the exit reason; SVM: 0xf0 to 0xf3 are 0x400 to
                                      0x403. */
  __u64 qemu_ns[STALLS_USER_CODES];
  struct stalls_stall stall;
  struct stalls_block block; /* The present or last. */
};

/* Thread id to slot + 1. */
struct stalls_tids {
  __u16 slot[STALLS_PAGE_TIDS];
};

struct stalls_signal {
  __u32 message; /* STALLS_MESSAGE_SIGNAL, _VICTIM, _EXIT or _EXEC. */
  __s32 signal;  /* _EXIT: as wait(2) encodes it. */
  __u64 time_ns;
  __u32 sender_tgid; /* _VICTIM: whose allocation failed. */
  __u32 sender_tid;
  __u32 sender_uid;
  __u32 target_tgid;
  __u32 target_tid;
  __s32 code;   /* si_code; 0x80: the kernel. */
  __s32 result; /* Of signal_generate: 0 delivered, 1 ignored, 2 already pending. */
  __u32 reserved;
  char sender_comm[16];
};
