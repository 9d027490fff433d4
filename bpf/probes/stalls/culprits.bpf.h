/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* Who ran while a registered thread waited: the lists of waiters by CPU, and tables of culprits. */

#include "bpf/probes/stalls/account.bpf.h"

/* Registered threads that wait for a CPU, by CPU. Written under that CPU's run queue lock, but for a thread
 * that is moved: hence compare-and-swap. `running` is written at each switch: no other CPU's fields share its
 * cache line. */
struct waiters {
  u32 count;
  u32 slot[STALLS_WAITERS]; /* + 1 */
  u32 apart[7];
  u32 running; /* Thread id + 1 of who got the CPU at the last switch; 0: there was none yet. */
  u32 apart_too[15];
};
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, u32);
  __type(value, struct waiters);
} waiting_for SEC(".maps");

struct runner {
  u32 tid, tgid;
  u64 born_ns;
  u64 since_ns; /* It had the CPU since then; 0: since the last switch. */
  char comm[16];
};

static __always_inline bool is_culprit(const struct stalls_culprit* at, const struct runner* who) {
  return at->tid == who->tid && at->born_ns == who->born_ns;
}

/* By its name of now: what a shell starts runs under the shell's name first. */
static __always_inline void add_time(struct stalls_culprit* at, const struct runner* who, u64 ns) {
  at->ns += ns;
  __builtin_memcpy(at->comm, who->comm, sizeof(at->comm));
}

static __always_inline void give_place(struct stalls_culprit* at, const struct runner* who, u64 ns) {
  at->tid = who->tid;
  at->tgid = who->tgid;
  at->born_ns = who->born_ns;
  at->ns = 0;
  add_time(at, who, ns);
}

/* Functions that are not static are verified once, not again for each path that leads to them.
 *
 * A table that is full lets the entry go that ranks least, and the newcomer takes over its rank: so whoever
 * ran for more than a sixteenth of all that time has its place, however many others come and go, and what it
 * ran since it got that is exact. User space adds up what it reads each second. */
__noinline int blame_in_all(struct stalls_thread* t, const struct runner* who, u64 ns) {
  if (!t || !who) return 0;
  t->blamed_ns += ns;
  u64 least = ~0ull;
  u32 place = 0;
  for (u32 i = 0; i < STALLS_CULPRITS; i++) {
    struct stalls_culprit* at = &t->culprits[i];
    if (at->ns && is_culprit(at, who)) {
      add_time(at, who, ns);
      at->rank_ns += ns;
      return 0;
    }
    if (at->rank_ns < least) {
      least = at->rank_ns;
      place = i;
    }
  }
  opaque(place);
  struct stalls_culprit* at = &t->culprits[place & (STALLS_CULPRITS - 1)];
  give_place(at, who, ns);
  at->rank_ns = least + ns;
  at->placed_ns = t->charged_ns;
  return 0;
}

/* A stall's table that is full lets an entry go for one that is greater already; which, its thread id says.
 */
__noinline int blame_in_stall(struct stalls_thread* t, const struct runner* who, u64 ns) {
  if (!t || !who) return 0;
  struct stalls_stall* stall = &t->stall;
  for (u32 i = 0; i < STALLS_ONE_CULPRITS; i++) {
    struct stalls_culprit* at = &stall->culprits[i];
    if (!at->ns) {
      give_place(at, who, ns);
      return 0;
    }
    if (is_culprit(at, who)) {
      add_time(at, who, ns);
      return 0;
    }
  }
  u32 place = who->tid;
  opaque(place);
  struct stalls_culprit* at = &stall->culprits[place & (STALLS_ONE_CULPRITS - 1)];
  if (at->ns >= ns) {
    stall->others_ns += ns;
    return 0;
  }
  stall->others_ns += at->ns;
  give_place(at, who, ns);
  return 0;
}

/* Who had the CPU since the last look had it all the while that a thread waited, but for what was missed. */
__noinline int charge(struct stalls_thread* t, const struct runner* who, u64 now) {
  if (!t || !who) return 0;
  u64 from = t->charged_ns;
  if (who->since_ns > from) from = who->since_ns;
  u64 ns = now > from ? now - from : 0;
  t->charged_ns = now;
  if (t->state != STALLS_WAITING || !ns) return 0;
  blame_in_all(t, who, ns);
  if (!t->stall.begin_ns) return 0;
  add_to_stall(t, 0, 0);
  blame_in_stall(t, who, ns);
  return 0;
}

static __always_inline void enlist(struct stalls_thread* t, u32 cpu, u64 now) {
  t->wait_cpu = cpu;
  t->charged_ns = now;
  t->stall.cpu = cpu;
  struct waiters* list = bpf_map_lookup_elem(&waiting_for, &cpu);
  if (!list) return;
  for (u32 i = 0; i < STALLS_WAITERS; i++) {
    if (list->slot[i] == t->stall.slot + 1) return;
    if (list->slot[i]) continue;
    if (__sync_val_compare_and_swap(&list->slot[i], 0, t->stall.slot + 1) != 0) continue;
    __sync_fetch_and_add(&list->count, 1);
    return;
  }
  stat_add(STALLS_STAT_WAITERS_FULL, 1);
}

static __always_inline void strike(struct waiters* list, u32 i, u32 value) {
  if (__sync_val_compare_and_swap(&list->slot[i], value, 0) == value) __sync_fetch_and_sub(&list->count, 1);
}

struct switch_ {
  u64 prev;          /* struct task_struct */
  struct runner who; /* prev */
  u32 cpu;
  u32 next;
};

/* All that wait for this CPU: who had it is blamed, and the quota is looked at again. */
__noinline int visit_waiters(const struct switch_* s, u64 now) {
  if (!s) return 0;
  u32 cpu = s->cpu;
  struct waiters* list = bpf_map_lookup_elem(&waiting_for, &cpu);
  if (!list) return 0;
  for (u32 i = 0; i < STALLS_WAITERS; i++) {
    u32 value = list->slot[i];
    if (!value) continue;
    u32 slot = value - 1;
    struct stalls_thread* t = bpf_map_lookup_elem(&threads, &slot);
    if (!t || !(READY >> (t->state & 31) & 1) || t->wait_cpu != cpu) {
      strike(list, i, value);
      continue;
    }
    if ((u32)t->pid_tgid == s->who.tid) { /* It got the CPU, and that was missed. */
      strike(list, i, value);
      continue;
    }
    charge(t, &s->who, now);
    if ((u32)t->pid_tgid == s->next) strike(list, i, value);
  }
  return 0;
}
