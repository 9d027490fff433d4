/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* Accounting: each nanosecond of a thread to the state that it leaves, and to the stall that it is in. */

#include "bpf/probes/stalls/state.bpf.h"

/* The stall's sums are wiped only when it lasts beyond its first state: most exits to KVM do not. */
static __always_inline void add_to_stall(struct stalls_thread* t, u32 state, u64 ns) {
  struct stalls_stall* stall = &t->stall;
  if (!stall->dirty) {
    __builtin_memset(stall->ns, 0, sizeof(stall->ns));
    __builtin_memset(stall->culprits, 0, sizeof(stall->culprits));
    stall->others_ns = 0;
    stall->block.ns = 0;
    stall->block.frames = 0;
    stall->dirty = 1;
  }
  stall->ns[state & (STALLS_STATES - 1)] += ns;
}

/* Of a stall's longest sleep: before the thread's next ones take its place. */
__noinline int emit_user(struct stalls_thread* t) {
  if (!t) return 0;
  u32 index = t->stall.slot * 2 + t->stall.block.user - 1;
  struct stalls_user* user = bpf_map_lookup_elem(&user_stacks, &index);
  if (!user || user->since_ns != t->stall.block.since_ns) return 0;
  user->message = STALLS_MESSAGE_USER;
  user->slot = t->stall.slot;
  user->tid = t->pid_tgid;
  user->begin_ns = t->stall.begin_ns;
  emit(user, sizeof(*user), STALLS_STAT_RING_FULL, 1, 0);
  return 0;
}

__noinline int end_stall(struct stalls_thread* t, u64 now) {
  if (!t) return 0;
  struct stalls_stall* stall = &t->stall;
  if (stall->block.ns && stall->block.user) emit_user(t);
  stall->message = STALLS_MESSAGE_STALL;
  stall->tid = t->pid_tgid;
  stall->tgid = t->pid_tgid >> 32;
  stall->end_ns = now;
  t->stalls++;
  emit(stall, sizeof(*stall), STALLS_STAT_RING_FULL, 1, 0);
  return 0;
}

/* The one place where time is accounted: everything since the last transition belongs to the state left. */
__noinline int move(struct stalls_thread* t, u64 now, u32 to) {
  if (!t) return 0;
  u32 from = t->state;
  if (from >= STALLS_STATES) return 0;
  opaque(from);
  from &= STALLS_STATES - 1;
  __sync_fetch_and_add(&t->seq, 1);
  /* Clocks of two CPUs may differ by some nanoseconds: time never goes back, so that sums stay whole. */
  u64 ns = now > t->since_ns ? now - t->since_ns : 0;
  if (ns) t->since_ns = now;
  t->ns[from] += ns;
  if (from == STALLS_KVM) {
    u32 code = t->stall.exit_code;
    if (isa == 2 && (code & ~3u) == 0x400) code = 0xf0 | (code & 3);
    t->kvm_ns[code & (STALLS_EXIT_CODES - 1)] += ns;
  } else if (from == STALLS_QEMU) {
    t->qemu_ns[t->stall.user_code & (STALLS_USER_CODES - 1)] += ns;
  }
  bool gets_on = to >= STALLS_STATES || (t->good >> (to & (STALLS_STATES - 1)) & 1);
  if (t->stall.begin_ns) {
    bool long_enough = now > t->stall.begin_ns && now - t->stall.begin_ns >= t->threshold_ns;
    if (!gets_on || long_enough) add_to_stall(t, from, ns);
    if (gets_on) {
      if (long_enough) end_stall(t, now);
      t->stall.begin_ns = 0;
      t->stall.dirty = 0;
    }
  } else if (!gets_on) {
    t->stall.begin_ns = now;
    t->stall.dirty = 0;
  }
  t->state = to;
  __sync_fetch_and_add(&t->seq, 1);
  return 0;
}
