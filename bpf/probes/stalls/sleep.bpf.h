/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* In which state a thread sleeps: from the kernel's state and the system call that it is in. */

#include "bpf/probes/stalls/state.bpf.h"

struct arguments {
  u64 at[3];
};

static __always_inline void read_arguments(struct arguments* out, const struct pt_regs* regs) {
#if defined(__TARGET_ARCH_arm64)
  bpf_core_read(out, sizeof(*out), &regs->regs);
#else
  bpf_core_read(&out->at[0], sizeof(u64), &regs->di);
  bpf_core_read(&out->at[1], sizeof(u64), &regs->si);
  bpf_core_read(&out->at[2], sizeof(u64), &regs->dx);
#endif
}

static __always_inline s32 system_call(const struct pt_regs* regs, u64* ip) {
#if defined(__TARGET_ARCH_arm64)
  s32 value = -1;
  bpf_core_read(&value, sizeof(value), &regs->syscallno);
  bpf_core_read(ip, sizeof(*ip), &regs->pc);
#else
  unsigned long value = -1;
  bpf_core_read(&value, sizeof(value), &regs->orig_ax);
  bpf_core_read(ip, sizeof(*ip), &regs->ip);
#endif
  return value > 4096 ? -1 : (s32)value;
}

enum { KVM_RUN_ = 0xae80 };

/* A mutex of the C library waits for its word to be no longer 2: taken, and waited for. Condition variables
 * use FUTEX_WAIT_BITSET, QEMU's events another value: both wait for something to do. */

enum { FUTEX_WAIT_ = 0, FUTEX_LOCK_PI_ = 6, FUTEX_LOCK_PI2_ = 13, FUTEX_COMMAND = 0x7f, MUTEX_CONTENDED = 2 };

/* What is read of a task that goes to sleep. */
struct sleeper {
  u64 state;
  u64 jobctl;
  struct arguments arguments;
  u64 ip;
  s32 call;
  u32 memstall;
};

static __always_inline void read_sleeper(struct sleeper* out, const struct task_struct* task, u64 state,
                                         const struct pt_regs* regs) {
  unsigned long jobctl = 0;
  out->state = state;
  bpf_core_read(&jobctl, sizeof(jobctl), &task->jobctl);
  out->jobctl = jobctl;
  out->memstall = task_in_memstall(task);
  out->call = system_call(regs, &out->ip);
  read_arguments(&out->arguments, regs);
}

/* In which state a thread sleeps, from the kernel's and from the system call it is in. */
__noinline int sleep_state(struct stalls_thread* t, const struct sleeper* of) {
  if (!t || !of) return STALLS_BLOCKED;
  struct stalls_block* block = &t->block;
  block->ns = 0;
  block->frames = 0;
  block->argument = of->arguments.at[0];
  block->user_ip = of->ip;
  block->syscall = of->call;
  if (of->state & TASK_FROZEN_) return STALLS_FROZEN;
  if (of->state & (TASK_STOPPED_ | TASK_TRACED_)) return STALLS_STOPPED;
  if ((of->state & TASK_INTERRUPTIBLE_) && (of->jobctl & JOBCTL_TRAP_FREEZE_)) return STALLS_FROZEN;
  if (t->reclaim || of->memstall) return STALLS_RECLAIM;
  if (!(of->state & TASK_INTERRUPTIBLE_)) return STALLS_DISK;
  u32 call = of->call;
  if (call >= 512) return STALLS_BLOCKED;
  if (call == ioctl_call && (u32)of->arguments.at[1] == KVM_RUN_) return STALLS_HALTED;
  if (call == futex_call) {
    u32 op = of->arguments.at[1] & FUTEX_COMMAND;
    bool lock = op == FUTEX_LOCK_PI_ || op == FUTEX_LOCK_PI2_ ||
                (op == FUTEX_WAIT_ && (u32)of->arguments.at[2] == MUTEX_CONTENDED);
    return lock ? STALLS_LOCK : STALLS_IDLE;
  }
  return idle_call[call & 511] ? STALLS_IDLE : STALLS_BLOCKED;
}
