/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where the time of registered threads goes: a state machine of each thread, and who ran while it waited.
 *
 * User space registers a thread: it fills a row, and then the thread's place in an array that is indexed by
 * thread id. Probes only look up. Transitions of one thread follow each other under the lock of the run queue
 * that it is on, or in its own context, so a row has one writer at a time. A switch between threads that are
 * not registered costs three array lookups.
 *
 * Events can be missing: some kernels run no probe in the context of tasks that they protect, so that the
 * switch from such a task is not told. Then the next one does not begin with the thread that the last one
 * ended with, and nobody is blamed for the time in between but for what the scheduler itself says it ran. */

#include "bpf/include/stalls.h"
#include "bpf/include/emit.bpf.h"
#include "bpf/include/kernel.bpf.h"
#include "bpf/include/sched.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

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
#define READY (ONE(STALLS_WAITING) | ONE(STALLS_THROTTLED))

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

__noinline int end_stall(struct stalls_thread* t, u64 now) {
  if (!t) return 0;
  struct stalls_stall* stall = &t->stall;
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

/* --- who ran instead -------------------------------------------------------------------------------------
 */

struct runner {
  u32 tid, tgid;
  u64 task;
  u64 since_ns; /* It had the CPU since then; 0: since the last switch. */
};

static __always_inline void name_culprit(struct stalls_culprit* at, const struct runner* who) {
  const struct task_struct* task = (const void*)who->task;
  at->tid = who->tid;
  at->tgid = who->tgid;
  if (bpf_core_read_str(at->comm, sizeof(at->comm), &task->comm) < 0) at->comm[0] = 0;
}

/* A table that is full lets an entry go for one that is greater already; which, its thread id says. */
#define BLAME(table, count, others)                          \
  for (u32 i = 0; i < (count); i++) {                        \
    struct stalls_culprit* at = &(table)[i];                 \
    if (!at->ns) {                                           \
      name_culprit(at, who);                                 \
      at->ns = ns;                                           \
      return 0;                                              \
    }                                                        \
    if (at->tid == who->tid && at->tgid == who->tgid) {      \
      at->ns += ns;                                          \
      return 0;                                              \
    }                                                        \
  }                                                          \
  u32 place = who->tid;                                      \
  opaque(place);                                             \
  struct stalls_culprit* at = &(table)[place & ((count)-1)]; \
  if (at->ns >= ns) {                                        \
    (others) += ns;                                          \
    return 0;                                                \
  }                                                          \
  (others) += at->ns;                                        \
  name_culprit(at, who);                                     \
  at->ns = ns;                                               \
  return 0;

/* Functions that are not static are verified once, not again for each path that leads to them. */
__noinline int blame_in_all(struct stalls_thread* t, const struct runner* who, u64 ns) {
  if (!t || !who) return 0;
  BLAME(t->culprits, STALLS_CULPRITS, t->others_ns)
}

__noinline int blame_in_stall(struct stalls_thread* t, const struct runner* who, u64 ns) {
  if (!t || !who) return 0;
  BLAME(t->stall.culprits, STALLS_ONE_CULPRITS, t->stall.others_ns)
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

/* --- transitions -----------------------------------------------------------------------------------------
 */

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
  if (!(t->good >> (to & (STALLS_STATES - 1)) & 1))
    t->block.frames = bpf_get_stack(ctx, t->block.stack, sizeof(t->block.stack), 0);
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

/* `direct`: the arguments are the kernel's pointers to the verifier, and are read without a helper. */
#define READ(direct, to, field)               \
  do {                                        \
    if (direct)                               \
      to = field;                             \
    else                                      \
      bpf_core_read(&to, sizeof(to), &field); \
  } while (0)

static __always_inline int on_switch(u64* ctx, bool direct) {
  struct switch_ s = {};
  struct task_struct* prev = (struct task_struct*)ctx[1];
  struct task_struct* next = (struct task_struct*)ctx[2];
  int pid = 0;
  /* Never so; but some kernels' verifiers want it asked, here and below. */
  if (!prev || !next) return 0;
  s.prev = (u64)prev;
  READ(direct, pid, prev->pid);
  s.who.tid = pid;
  READ(direct, pid, next->pid);
  s.next = pid;
  s.cpu = bpf_get_smp_processor_id();
  struct waiters* list = bpf_map_lookup_elem(&waiting_for, &s.cpu);
  struct stalls_thread* from = s.who.tid ? thread_of(s.who.tid) : NULL;
  struct stalls_thread* to = s.next ? thread_of(s.next) : NULL;
  /* Step by step: the compiler would or the pointers together, which the verifier refuses. */
  u32 concerns = list ? list->count : 0;
  bool gap = false;
  if (list) {
    u32 running = list->running;
    opaque(running);
    gap = running && running != s.who.tid + 1;
    list->running = s.next + 1;
  }
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
  if (list && list->count) {
    READ(direct, pid, prev->tgid);
    s.who.tgid = pid;
    s.who.task = (u64)prev;
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
  struct stalls_thread* t = thread_of(pid);
  if (!t || !(READY >> (t->state & 31) & 1)) return 0;
  hit(STALLS_PROBE_MIGRATE);
  /* Who had the old CPU since the last switch there is not known any more. */
  enlist(t, cpu, bpf_ktime_get_boot_ns());
  return 0;
}

static __always_inline int on_exit(struct task_struct* task, bool direct) {
  int pid = 0, tgid = 0;
  if (!task) return 0;
  READ(direct, pid, task->pid);
  struct stalls_thread* t = thread_of(pid);
  if (!t) return 0;
  hit(STALLS_PROBE_EXIT);
  u64 now = bpf_ktime_get_boot_ns();
  move(t, now, STALLS_STATES);
  u32 page_index = (u32)pid / STALLS_PAGE_TIDS;
  struct stalls_tids* page = bpf_map_lookup_elem(&slot_by_tid, &page_index);
  if (page) page->slot[(u32)pid % STALLS_PAGE_TIDS] = 0;
  READ(direct, tgid, task->tgid);
  if (pid != tgid) return 0;
  struct stalls_signal end = {};
  struct signal_struct* signal = NULL;
  int code = 0;
  bpf_core_read(&signal, sizeof(signal), &task->signal);
  if (signal) bpf_core_read(&code, sizeof(code), &signal->group_exit_code);
  if (!code) bpf_core_read(&code, sizeof(code), &task->exit_code);
  end.message = STALLS_MESSAGE_EXIT;
  end.time_ns = now;
  end.target_tgid = tgid;
  end.target_tid = pid;
  end.signal = code;
  emit(&end, sizeof(end), STALLS_STAT_RING_FULL, 1, BPF_RB_FORCE_WAKEUP);
  return 0;
}

/* Signals that stop, end or kill: others are QEMU's own business, many a second. */
#define SIGNALS_OF_NOTE                                                                            \
  (1ull << 1 | 1ull << 2 | 1ull << 3 | 1ull << 4 | 1ull << 5 | 1ull << 6 | 1ull << 7 | 1ull << 8 | \
   1ull << 9 | 1ull << 11 | 1ull << 15 | 1ull << 18 | 1ull << 19 | 1ull << 20 | 1ull << 24 | 1ull << 31)

static __always_inline void sender(struct stalls_signal* out) {
  u64 me = bpf_get_current_pid_tgid();
  out->time_ns = bpf_ktime_get_boot_ns();
  out->sender_tgid = me >> 32;
  out->sender_tid = me;
  out->sender_uid = bpf_get_current_uid_gid();
  bpf_get_current_comm(out->sender_comm, sizeof(out->sender_comm));
}

static __always_inline int on_signal(u64* ctx, bool direct) {
  u32 number = ctx[0];
  if (number >= 64 || !(SIGNALS_OF_NOTE >> number & 1)) return 0;
  struct task_struct* task = (struct task_struct*)ctx[2];
  int pid = 0, tgid = 0;
  if (!task) return 0;
  READ(direct, pid, task->pid);
  if (!thread_of(pid)) return 0;
  hit(STALLS_PROBE_SIGNAL);
  READ(direct, tgid, task->tgid);
  struct stalls_signal out = {};
  sender(&out);
  out.message = STALLS_MESSAGE_SIGNAL;
  out.signal = number;
  out.target_tgid = tgid;
  out.target_tid = pid;
  out.result = ctx[4];
  const struct kernel_siginfo* info = (const void*)ctx[1];
  if (info) {
    opaque(info); /* Or the compiler would merge the two questions, and the verifier not see the first. */
    if ((u64)info == 1)
      out.code = 0x80; /* SEND_SIG_PRIV: the kernel. */
    else if ((u64)info > 2)
      bpf_core_read(&out.code, sizeof(out.code), &info->si_code);
  }
  emit(&out, sizeof(out), STALLS_STAT_RING_FULL, 1, BPF_RB_FORCE_WAKEUP);
  return 0;
}

static __always_inline int on_victim(u64* ctx) {
  int pid = 0;
  if (victim_arguments == 2) {
    const struct task_struct* task = (const void*)ctx[0];
    if (!task || bpf_core_read(&pid, sizeof(pid), &task->pid) != 0) return 0;
  } else {
    u64 value = ctx[0];
    opaque(value);
    pid = value;
  }
  struct stalls_thread* t = thread_of(pid);
  if (!t) return 0;
  hit(STALLS_PROBE_VICTIM);
  struct stalls_signal out = {};
  sender(&out);
  out.message = STALLS_MESSAGE_VICTIM;
  out.target_tgid = t->pid_tgid >> 32;
  out.target_tid = pid;
  emit(&out, sizeof(out), STALLS_STAT_RING_FULL, 1, BPF_RB_FORCE_WAKEUP);
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

/* --- KVM: in the vCPU's own thread -----------------------------------------------------------------------
 */

static __always_inline int enter_phase(struct stalls_thread* t, u32 phase) {
  t->phase = phase;
  return move(t, bpf_ktime_get_boot_ns(), on_cpu_state(t));
}

static __always_inline int on_kvm_entry(const struct kvm_vcpu* vcpu) {
  struct stalls_thread* t = this_thread();
  if (!t) return 0;
  hit(STALLS_PROBE_KVM_ENTRY);
  if (t->good != kvm_good) {
    t->good = kvm_good;
    t->threshold_ns = vcpu_threshold_ns;
    if (isa != 3 && vcpu && bpf_core_field_exists(vcpu->vcpu_id))
      bpf_core_read(&t->vcpu_id, sizeof(t->vcpu_id), &vcpu->vcpu_id);
  }
  return enter_phase(t, STALLS_GUEST);
}

static __always_inline int on_kvm_exit(u64* ctx) {
  struct stalls_thread* t = this_thread();
  if (!t) return 0;
  hit(STALLS_PROBE_KVM_EXIT);
  u32 code = 0;
  if (isa == 3) {
    code = (u32)ctx[0] == 2 ? (u32)ctx[1] : 0x100 + (u32)ctx[0];
  } else if (exit_arguments == 3) {
    code = ctx[0];
  } else {
    const void* vcpu = (const void*)ctx[0];
    bool ok = false;
    if (!vcpu) return 0;
    if (isa == 1) {
      ok = vmx_exit_reason(vcpu, &code);
    } else if (isa == 2) {
      u64 wide = 0;
      ok = svm_exit_code(vcpu, &wide);
      code = wide;
    }
    if (!ok) stat_add(STALLS_STAT_READ_FAILED, 1);
  }
  enter_phase(t, STALLS_KVM);
  t->stall.exit_code = code;
  return 0;
}

static __always_inline int on_kvm_userspace(u32 reason, s32 error) {
  struct stalls_thread* t = this_thread();
  if (!t) return 0;
  hit(STALLS_PROBE_KVM_USERSPACE);
  enter_phase(t, STALLS_QEMU);
  t->stall.user_code = error < 0 ? 63 : (s32)reason;
  return 0;
}

/* The first tracepoint of a KVM_RUN. */
static __always_inline int on_kvm_fpu(u32 load) {
  if (!load) return 0;
  struct stalls_thread* t = this_thread();
  if (!t) return 0;
  hit(STALLS_PROBE_KVM_FPU);
  return enter_phase(t, guest_entries ? STALLS_KVM : STALLS_RUNNING);
}

/* Tells afterwards how long KVM polled, so the end of what was taken for KVM becomes polling. */
static __always_inline int on_kvm_wakeup(u64 ns, bool waited) {
  struct stalls_thread* t = this_thread();
  if (!t) return 0;
  hit(STALLS_PROBE_KVM_WAKEUP);
  if (waited || t->state != STALLS_KVM) return 0;
  u64 now = bpf_ktime_get_boot_ns();
  u64 begin = now > ns ? now - ns : now;
  if (begin < t->since_ns) begin = t->since_ns;
  move(t, begin, STALLS_HALT_POLL);
  return move(t, now, STALLS_KVM);
}

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
