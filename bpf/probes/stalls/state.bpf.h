/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* What the programs of the family stalls share: options, maps, and the row of a thread. */

#include "bpf/include/emit.bpf.h"
#include "bpf/include/kernel.bpf.h"
#include "bpf/include/sched.bpf.h"
#include "bpf/include/stalls.h"

/* Options: fixed before load. */
const volatile __u32 isa;              /* 1 VMX, 2 SVM, 3 arm64, 4 PVM. */
const volatile __u32 exit_arguments;   /* kvm_exit's. */
const volatile __u32 switch_arguments; /* sched_switch's: 4 where it tells the state (5.18), else 3. */
const volatile __u32 victim_arguments; /* mark_victim's: 2 where it tells the task (6.8), else 1, the pid. */
const volatile __u8 guest_entries;     /* kvm_entry and kvm_exit tell guest and KVM apart. */
const volatile __u8 idle_call[512];    /* 1: a system call that waits for work. */
const volatile __u32 futex_call = 202;
const volatile __u32 ioctl_call = 16;
const volatile __u64 vcpu_threshold_ns; /* Of a thread that enters the guest. */
const volatile __u32 kvm_good;          /* The mask of a thread that enters the guest. */

STATS_MAP(stalls, STALLS_STATS)
RING_MAP(stalls)

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, u32);
  __type(value, struct stalls_thread);
} threads SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, u32);
  __type(value, struct stalls_tids);
} slot_by_tid SEC(".maps");

/* Two for each slot. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 2);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, u32);
  __type(value, struct stalls_user);
} user_stacks SEC(".maps");

/* By thread id, modulo: whether a thread of such an id is registered. Without it, it costs two loads to know
 * that one is not. */
__u64 filter[STALLS_FILTER / 64];

static __always_inline bool may_be_registered(u32 tid) {
  return filter[tid / 64 % (STALLS_FILTER / 64)] >> (tid % 64) & 1;
}

static __always_inline void hit(u32 probe) {
  stat_add(probe, 1);
}

static __always_inline struct stalls_thread* thread_of(u32 tid) {
  u32 page_index = tid / STALLS_PAGE_TIDS;
  struct stalls_tids* page = bpf_map_lookup_elem(&slot_by_tid, &page_index);
  if (!page) return NULL;
  u32 slot = page->slot[tid % STALLS_PAGE_TIDS];
  if (!slot) return NULL;
  slot--;
  struct stalls_thread* t = bpf_map_lookup_elem(&threads, &slot);
  return t && (u32)t->pid_tgid == tid ? t : NULL;
}

static __always_inline struct stalls_thread* this_thread(void) {
  return thread_of((u32)bpf_get_current_pid_tgid());
}

#define ONE(state) (1u << (state))
#define KEPT_OFF                                                                                        \
  (ONE(STALLS_IDLE) | ONE(STALLS_LOCK) | ONE(STALLS_BLOCKED) | ONE(STALLS_DISK) | ONE(STALLS_RECLAIM) | \
   ONE(STALLS_STOPPED) | ONE(STALLS_FROZEN) | ONE(STALLS_HALTED))
/* Whoever sleeps so got there by a call of its own. */
#define IN_A_CALL (ONE(STALLS_LOCK) | ONE(STALLS_BLOCKED) | ONE(STALLS_DISK) | ONE(STALLS_RECLAIM))
#define READY (ONE(STALLS_WAITING) | ONE(STALLS_THROTTLED))

/* `direct`: the arguments are the kernel's pointers to the verifier, and are read without a helper. */
#define READ(direct, to, field)               \
  do {                                        \
    if (direct)                               \
      to = field;                             \
    else                                      \
      bpf_core_read(&to, sizeof(to), &field); \
  } while (0)
