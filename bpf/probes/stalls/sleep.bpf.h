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

/* struct pt_regs begins with what ptrace shows: its order is the kernel's word. */
#if defined(__TARGET_ARCH_arm64)
enum { USER_REGISTERS = 34, USER_SP = 31 };
#else
enum { USER_REGISTERS = 21, USER_SP = 19 };
#endif

/* A mutex of the C library waits for its word to be no longer 2: taken, and waited for. Condition variables
 * use FUTEX_WAIT_BITSET, QEMU's events another value: both wait for something to do. */

enum { FUTEX_WAIT_ = 0, FUTEX_LOCK_PI_ = 6, FUTEX_LOCK_PI2_ = 13, FUTEX_COMMAND = 0x7f, MUTEX_CONTENDED = 2 };

/* What it tells of who has it: a lock of that kind has the owner in its word, a mutex of glibc two words
 * behind. */
enum { FUTEX_TID = 0x3fffffff, MUTEX_OWNER_AT = 8 };

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

/* KVM sleeps interruptibly for a page of the guest's memory too (6.2): for userfaultfd, as in a post-copy.
 * Then the guest left by a fault of nested paging and not by a halt. */
enum { EPT_VIOLATION = 48, NESTED_PAGE_FAULT = 0x400 };
static __always_inline bool wants_a_page(const struct stalls_thread* t) {
  u32 code = t->stall.exit_code;
  if (t->phase != STALLS_KVM) return false;
  return (isa == 1 && code == EPT_VIOLATION) || (isa == 2 && code == NESTED_PAGE_FAULT);
}

/* In which state a thread sleeps, from the kernel's and from the system call it is in. */
__noinline int sleep_state(struct stalls_thread* t, const struct sleeper* of) {
  if (!t || !of) return STALLS_BLOCKED;
  struct stalls_block* block = &t->block;
  block->ns = 0;
  block->frames = 0;
  block->user = 0;
  block->lock_owner = 0;
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
  if (call == ioctl_call && (u32)of->arguments.at[1] == KVM_RUN_)
    return wants_a_page(t) ? STALLS_BLOCKED : STALLS_HALTED;
  if (call == futex_call) {
    u32 op = of->arguments.at[1] & FUTEX_COMMAND;
    bool lock = op == FUTEX_LOCK_PI_ || op == FUTEX_LOCK_PI2_ ||
                (op == FUTEX_WAIT_ && (u32)of->arguments.at[2] == MUTEX_CONTENDED);
    return lock ? STALLS_LOCK : STALLS_IDLE;
  }
  return idle_call[call & 511] ? STALLS_IDLE : STALLS_BLOCKED;
}

static __always_inline u32 lock_owner(const struct sleeper* of) {
  u32 op = of->arguments.at[1] & FUTEX_COMMAND, owner = 0;
  u64 at = of->arguments.at[0] + (op == FUTEX_WAIT_ ? MUTEX_OWNER_AT : 0);
  bpf_probe_read_user(&owner, sizeof(owner), (const void*)at);
  return owner & FUTEX_TID;
}

/* Registers and stack of the current thread, which goes to sleep: user space finds the callers. QEMU has no
 * frame pointers. Nothing is waited for: what is not in memory is left out. */
static __noinline int keep_user(struct stalls_thread* t) {
  if (!t) return 0;
  u32 held = t->stall.dirty && t->stall.block.ns ? t->stall.block.user : 0;
  u32 which = held == 1 ? 2 : 1;
  u32 index = t->stall.slot * 2 + which - 1;
  struct stalls_user* user = bpf_map_lookup_elem(&user_stacks, &index);
  if (!user) return 0;
  const void* regs = (const void*)bpf_task_pt_regs(bpf_get_current_task_btf());
  user->since_ns = 0;
  if (bpf_probe_read_kernel(user->registers, USER_REGISTERS * sizeof(u64), regs) != 0) return 0;
  u64 from = user->registers[USER_SP];
  u32 read = 0;
#pragma unroll
  for (u32 i = 0; i < STALLS_USER_CHUNKS; i++) {
    if (read == i * STALLS_USER_CHUNK &&
        bpf_probe_read_user(user->stack[i], STALLS_USER_CHUNK, (const void*)(from + i * STALLS_USER_CHUNK)) ==
            0)
      read += STALLS_USER_CHUNK;
  }
  user->bytes = read;
  user->since_ns = t->since_ns;
  t->block.user = which;
  return 0;
}
