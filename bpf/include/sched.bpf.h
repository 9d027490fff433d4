/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* The scheduler's structs as far as probes read them; see kernel.bpf.h. */

#include "bpf/include/base.bpf.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct pt_regs {
#if defined(__TARGET_ARCH_arm64)
  u64 regs[31];
  u64 pc;
  s32 syscallno;
#else
  unsigned long dx, si, di, orig_ax, ip;
#endif
};
struct thread_info {
  u32 cpu;
};
struct cfs_rq {
  int throttle_count;
};
struct sched_entity {
  struct cfs_rq* cfs_rq;
  u64 sum_exec_runtime;
  u64 prev_sum_exec_runtime; /* When the fair scheduler picked it. */
};
struct signal_struct {
  int group_exit_code;
};
/* The thread that executes another program and waits for the others to end; 49697335e0b4 (5.17) renamed it.
 */
struct signal_struct___v5_17 {
  struct task_struct* group_exec_task;
};
struct signal_struct___before_5_17 {
  struct task_struct* group_exit_task;
};
struct task_struct {
  int pid;
  int tgid;
  char comm[16];
  struct thread_info thread_info;
  struct sched_entity se;
  struct signal_struct* signal;
  int exit_code;
  int on_cpu;
  int prio;
  u64 start_time;
  unsigned long jobctl;
  unsigned int in_memstall : 1;
};
/* 2f064a59a11f (5.14) renamed state. */
struct task_struct___v5_14 {
  unsigned int __state;
};
struct task_struct___before_5_14 {
  long state;
};
/* bcf9033e5449 (5.16) moved it to thread_info. */
struct task_struct___before_5_16 {
  unsigned int cpu;
};
/* Throttling by task (6.18) instead of by run queue. */
struct task_struct___v6_18 {
  bool throttled;
};
struct bpf_iter_meta {
  void* seq;
};
struct bpf_iter__task {
  struct bpf_iter_meta* meta;
  struct task_struct* task;
};
/* Only read where it is a pointer. */
struct kernel_siginfo {
  int si_code;
};

#pragma clang attribute pop

/* Linux's task states, as far as they are told apart here. */
enum {
  TASK_INTERRUPTIBLE_ = 0x1,
  TASK_UNINTERRUPTIBLE_ = 0x2,
  TASK_STOPPED_ = 0x4,
  TASK_TRACED_ = 0x8,
  TASK_FROZEN_ = 0x8000, /* 6.1 and later. */
};
#define JOBCTL_TRAP_FREEZE_ (1ul << 23)

static __always_inline u32 task_cpu_of(const struct task_struct* task) {
  const struct task_struct___before_5_16* older = (const void*)task;
  u32 cpu = 0;
  if (bpf_core_field_exists(task->thread_info.cpu))
    bpf_core_read(&cpu, sizeof(cpu), &task->thread_info.cpu);
  else if (bpf_core_field_exists(older->cpu))
    bpf_core_read(&cpu, sizeof(cpu), &older->cpu);
  return cpu;
}

static __always_inline u64 task_state_of(const struct task_struct* task) {
  const struct task_struct___v5_14* newer = (const void*)task;
  const struct task_struct___before_5_14* older = (const void*)task;
  u64 state = 0;
  if (bpf_core_field_exists(newer->__state)) {
    u32 value = 0;
    bpf_core_read(&value, sizeof(value), &newer->__state);
    state = value;
  } else if (bpf_core_field_exists(older->state)) {
    bpf_core_read(&state, sizeof(state), &older->state);
  }
  return state;
}

/* Whether the quota of a cgroup above it is used up. */
static __always_inline bool task_throttled(const struct task_struct* task) {
  const struct task_struct___v6_18* newer = (const void*)task;
  if (bpf_core_field_exists(newer->throttled)) {
    u8 throttled = 0;
    bpf_core_read(&throttled, sizeof(throttled), &newer->throttled);
    return throttled;
  }
  struct cfs_rq* queue = NULL;
  int count = 0;
  if (!bpf_core_field_exists(queue->throttle_count)) return false;
  if (bpf_core_read(&queue, sizeof(queue), &task->se.cfs_rq) != 0 || !queue) return false;
  bpf_core_read(&count, sizeof(count), &queue->throttle_count);
  return count > 0;
}

/* How long a task that leaves its CPU has been on it; 0: not known, as only the fair scheduler keeps that. */
static __always_inline u64 task_ran_ns(const struct task_struct* task) {
  enum { FIRST_FAIR = 100 };
  int prio = 0;
  u64 sum = 0, before = 0;
  if (!bpf_core_field_exists(task->se.prev_sum_exec_runtime)) return 0;
  if (bpf_core_read(&prio, sizeof(prio), &task->prio) != 0 || prio < FIRST_FAIR) return 0;
  if (bpf_core_read(&sum, sizeof(sum), &task->se.sum_exec_runtime) != 0) return 0;
  if (bpf_core_read(&before, sizeof(before), &task->se.prev_sum_exec_runtime) != 0) return 0;
  return sum > before ? sum - before : 0;
}

/* Whether a thread of its process executes another program, so that the others end. */
static __always_inline bool task_gives_way_to_exec(const struct task_struct* task) {
  const struct signal_struct___v5_17* newer = NULL;
  const struct signal_struct___before_5_17* older = NULL;
  struct signal_struct* signal = NULL;
  u64 who = 0;
  if (bpf_core_read(&signal, sizeof(signal), &task->signal) != 0 || !signal) return false;
  newer = (const void*)signal;
  older = (const void*)signal;
  if (bpf_core_field_exists(newer->group_exec_task))
    bpf_core_read(&who, sizeof(who), &newer->group_exec_task);
  else if (bpf_core_field_exists(older->group_exit_task))
    bpf_core_read(&who, sizeof(who), &older->group_exit_task);
  return who != 0;
}

static __always_inline bool task_in_memstall(const struct task_struct* task) {
  if (!bpf_core_field_exists(task->in_memstall)) return false;
  return BPF_CORE_READ_BITFIELD_PROBED(task, in_memstall);
}
