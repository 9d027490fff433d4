/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where the time of registered threads goes: a state machine of each thread, and who ran while it waited.
 *
 * User space registers a thread: it fills a row, and then the thread's place in an array that is indexed by
 * thread id. Probes only look up. Transitions of one thread follow each other under the lock of the run queue
 * that it is on, or in its own context, so a row has one writer at a time. A switch between threads that are
 * not registered costs a look at a list of its CPU and at two bits.
 *
 * Events can be missing: some kernels run no probe in the context of tasks that they protect, so that the
 * switch from such a task is not told. Then the next one does not begin with the thread that the last one
 * ended with, and nobody is blamed for the time in between but for what the scheduler itself says it ran. */

#include "bpf/probes/stalls/ends.bpf.h"
#include "bpf/probes/stalls/kvm.bpf.h"
#include "bpf/probes/stalls/switches.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* --- the forms: BTF, and raw, which tests drive by bpf_prog_test_run --------------------------------------
 */

#define PROBE(name, direct_call, raw_call) \
  SEC("tp_btf/" #name)                     \
  int btf_##name(u64* ctx) {               \
    return direct_call;                    \
  }                                        \
  SEC("raw_tp/" #name)                     \
  int raw_##name(u64* ctx) {               \
    return raw_call;                       \
  }
#define SAME(name, call) PROBE(name, call, call)

PROBE(sched_switch, on_switch(ctx, true), on_switch(ctx, false))
PROBE(sched_wakeup, on_wakeup((void*)ctx[0], true), on_wakeup((void*)ctx[0], false))
PROBE(sched_migrate_task, on_migrate((void*)ctx[0], ctx[1], true), on_migrate((void*)ctx[0], ctx[1], false))
PROBE(sched_process_exit, on_exit((void*)ctx[0], true), on_exit((void*)ctx[0], false))
PROBE(sched_process_exec, on_exec((void*)ctx[0], ctx[1], true), on_exec((void*)ctx[0], ctx[1], false))
PROBE(signal_generate, on_signal(ctx, true), on_signal(ctx, false))
SAME(mark_victim, on_victim(ctx))
SAME(mm_vmscan_direct_reclaim_begin, on_reclaim(true, STALLS_PROBE_RECLAIM_BEGIN))
SAME(mm_vmscan_direct_reclaim_end, on_reclaim(false, STALLS_PROBE_RECLAIM_END))
SAME(mm_vmscan_memcg_reclaim_begin, on_reclaim(true, STALLS_PROBE_MEMCG_BEGIN))
SAME(mm_vmscan_memcg_reclaim_end, on_reclaim(false, STALLS_PROBE_MEMCG_END))
SAME(kvm_entry, on_kvm_entry((const void*)ctx[0]))
SAME(kvm_exit, on_kvm_exit(ctx))
SAME(kvm_userspace_exit, on_kvm_userspace(ctx[0], ctx[1]))
SAME(kvm_fpu, on_kvm_fpu(ctx[0]))
SAME(kvm_vcpu_wakeup, on_kvm_wakeup(ctx[0], ctx[1]))

/* What registered threads do right now, for those of which no event has told yet. */
SEC("iter/task")
int look_at_tasks(struct bpf_iter__task* ctx) {
  struct task_struct* task = ctx->task;
  if (!task) return 0;
  struct stalls_thread* t = thread_of(task->pid);
  if (!t || t->state != STALLS_UNKNOWN) return 0;
  u64 state = task_state_of(task);
  u32 now_is = STALLS_RUNNING;
  if (!task->on_cpu) {
    struct sleeper of = {};
    read_sleeper(&of, task, state, (const void*)bpf_task_pt_regs(task));
    now_is = state ? (u32)sleep_state(t, &of) : task_throttled(task) ? STALLS_THROTTLED : STALLS_WAITING;
  }
  t->block.state = now_is;
  /* An event that comes in between knows better. */
  if (__sync_val_compare_and_swap(&t->state, STALLS_UNKNOWN, now_is) != STALLS_UNKNOWN) return 0;
  if (t->good >> (now_is & (STALLS_STATES - 1)) & 1) return 0;
  __sync_val_compare_and_swap(&t->stall.begin_ns, 0, t->since_ns);
  if (t->state != now_is) __sync_val_compare_and_swap(&t->stall.begin_ns, t->since_ns, 0);
  return 0;
}
