/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* The scheduler's events: a registered thread leaves a CPU, takes one, is woken, is moved, reclaims. */

#include "bpf/probes/stalls/culprits.bpf.h"
#include "bpf/probes/stalls/sleep.bpf.h"

static __noinline int leave_cpu(struct stalls_thread* t, const struct switch_* s, u64 state, void* ctx,
                                u64 now) {
  if (!t || !s || !ctx) return 0;
  if (t->phase == STALLS_GUEST) t->phase = STALLS_KVM;
  if (!state) {
    move(t, now, task_throttled((const void*)s->prev) ? STALLS_THROTTLED : STALLS_WAITING);
    enlist(t, s->cpu, now);
    return 0;
  }
  struct sleeper of = {};
  read_sleeper(&of, (const void*)s->prev, state, (const void*)bpf_task_pt_regs(bpf_get_current_task_btf()));
  u32 to = sleep_state(t, &of);
  t->block.state = to;
  move(t, now, to);
  t->block.since_ns = t->since_ns;
  if (t->good >> (to & (STALLS_STATES - 1)) & 1) return 0;
  t->block.frames = bpf_get_stack(ctx, t->block.stack, sizeof(t->block.stack), 0);
  if (to == STALLS_LOCK) t->block.lock_owner = lock_owner(&of);
  if (IN_A_CALL >> (to & 31) & 1) keep_user(t);
  return 0;
}

static __always_inline u32 on_cpu_state(const struct stalls_thread* t) {
  if (t->reclaim) return STALLS_RECLAIM;
  return t->phase;
}

/* The longest sleep of a stall is the one whose stack is kept. */
static __always_inline void end_block(struct stalls_thread* t, u64 now) {
  t->block.ns = now > t->since_ns ? now - t->since_ns : 0;
  if (!t->stall.begin_ns || t->block.ns <= t->stall.block.ns) return;
  add_to_stall(t, 0, 0);
  __builtin_memcpy(&t->stall.block, &t->block, sizeof(t->block));
}

__noinline int take_cpu(struct stalls_thread* t, u64 now) {
  if (!t) return 0;
  if (KEPT_OFF >> (t->state & 31) & 1) end_block(t, now);
  return move(t, now, on_cpu_state(t));
}

/* A thread that leaves a CPU was on it, whatever its row says. When it got it the scheduler knows, mostly. */
static __always_inline void missed_arrival(struct stalls_thread* t, const struct switch_* s, u64 now) {
  u32 state = t->state & 31;
  bool on_cpu = !((READY | KEPT_OFF) >> state & 1) || (state == STALLS_RECLAIM && !s->who.since_ns);
  if (on_cpu) return;
  u64 ran = s->who.since_ns ? now - s->who.since_ns : task_ran_ns((const void*)s->prev);
  if (!ran) {
    move(t, t->since_ns, STALLS_UNKNOWN);
    return;
  }
  u64 since = now > ran ? now - ran : 0;
  if (KEPT_OFF >> state & 1) end_block(t, since);
  move(t, since, on_cpu_state(t));
}

/* Whoever is concerned by a switch: most concern nobody, and end here. */
static __always_inline int on_switch(u64* ctx, bool direct) {
  struct task_struct* prev = (struct task_struct*)ctx[1];
  struct task_struct* next = (struct task_struct*)ctx[2];
  int prev_tid = 0, next_tid = 0, pid = 0;
  u32 cpu = bpf_get_smp_processor_id();
  /* Never so; but some kernels' verifiers want it asked, here and below. */
  if (!prev || !next) return 0;
  READ(direct, prev_tid, prev->pid);
  READ(direct, next_tid, next->pid);
  struct waiters* list = bpf_map_lookup_elem(&waiting_for, &cpu);
  if (!list) return 0;
  u32 running = list->running;
  opaque(running);
  list->running = next_tid + 1;
  if (!list->count && !may_be_registered(prev_tid) && !may_be_registered(next_tid)) return 0;

  struct switch_ s = {.prev = (u64)prev, .cpu = cpu, .next = next_tid, .who.tid = prev_tid};
  bool gap = running && running != s.who.tid + 1;
  struct stalls_thread* from = s.who.tid ? thread_of(s.who.tid) : NULL;
  struct stalls_thread* to = s.next ? thread_of(s.next) : NULL;
  /* Step by step: the compiler would or the pointers together, which the verifier refuses. */
  u32 concerns = list->count;
  opaque(concerns);
  if (from) {
    concerns = 1;
    opaque(concerns);
  }
  if (to) {
    concerns = 1;
    opaque(concerns);
  }
  if (!concerns) return 0;
  u64 now = bpf_ktime_get_boot_ns();
  hit(STALLS_PROBE_SWITCH);
  if (gap) {
    u64 ran = task_ran_ns(prev);
    s.who.since_ns = now > ran ? now - ran : now;
    stat_add(STALLS_STAT_SWITCH_MISSED, 1);
  }
  if (list->count) {
    READ(direct, pid, prev->tgid);
    s.who.tgid = pid;
    if (s.who.tid) READ(direct, s.who.born_ns, prev->start_time);
    if (bpf_core_read_str(s.who.comm, sizeof(s.who.comm), &prev->comm) < 0) s.who.comm[0] = 0;
    visit_waiters(&s, now);
  }
  if (from) {
    /* A task that is pushed away stays ready, whatever its state says. */
    u64 state = (bool)ctx[0] ? 0 : switch_arguments >= 4 ? (u32)ctx[3] : task_state_of(prev);
    missed_arrival(from, &s, now);
    leave_cpu(from, &s, state, ctx, now);
  }
  if (to) take_cpu(to, now);
  return 0;
}

static __always_inline int on_wakeup(struct task_struct* task, bool direct) {
  int pid = 0;
  if (!task) return 0;
  READ(direct, pid, task->pid);
  if (!may_be_registered(pid)) return 0;
  struct stalls_thread* t = thread_of(pid);
  if (!t) return 0;
  hit(STALLS_PROBE_WAKEUP);
  if (!((KEPT_OFF | ONE(STALLS_UNKNOWN)) >> (t->state & 31) & 1)) return 0;
  /* About to sleep, and woken before it did: it goes on, in reclaim too. */
  int on_cpu = 0;
  READ(direct, on_cpu, task->on_cpu);
  if (on_cpu) return 0;
  u64 now = bpf_ktime_get_boot_ns();
  if (t->state != STALLS_UNKNOWN) end_block(t, now);
  move(t, now, task_throttled(task) ? STALLS_THROTTLED : STALLS_WAITING);
  enlist(t, task_cpu_of(task), now);
  return 0;
}

static __always_inline int on_migrate(struct task_struct* task, u32 cpu, bool direct) {
  int pid = 0;
  if (!task) return 0;
  READ(direct, pid, task->pid);
  if (!may_be_registered(pid)) return 0;
  struct stalls_thread* t = thread_of(pid);
  if (!t || !(READY >> (t->state & 31) & 1)) return 0;
  hit(STALLS_PROBE_MIGRATE);
  /* Who had the old CPU since the last switch there is not known any more. */
  enlist(t, cpu, bpf_ktime_get_boot_ns());
  return 0;
}

static __always_inline int on_reclaim(bool begins, u32 probe) {
  struct stalls_thread* t = this_thread();
  if (!t) return 0;
  hit(probe);
  if (begins)
    t->reclaim++;
  else if (t->reclaim)
    t->reclaim--;
  return move(t, bpf_ktime_get_boot_ns(), on_cpu_state(t));
}
