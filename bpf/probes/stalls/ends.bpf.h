/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* Who sends a signal, whom the OOM killer chose, and how a process ended. */

#include "bpf/probes/stalls/account.bpf.h"

/* The thread of that id is none of ours any more: whoever gets its id next is another. */
static __always_inline void end_row(struct stalls_thread* t, u32 tid, u64 now) {
  move(t, now, STALLS_STATES);
  u32 page_index = tid / STALLS_PAGE_TIDS;
  struct stalls_tids* page = bpf_map_lookup_elem(&slot_by_tid, &page_index);
  if (page) page->slot[tid % STALLS_PAGE_TIDS] = 0;
}

static __always_inline int on_exit(struct task_struct* task, bool direct) {
  int pid = 0, tgid = 0;
  if (!task) return 0;
  READ(direct, pid, task->pid);
  struct stalls_thread* t = thread_of(pid);
  if (!t) return 0;
  hit(STALLS_PROBE_EXIT);
  u64 now = bpf_ktime_get_boot_ns();
  end_row(t, pid, now);
  READ(direct, tgid, task->tgid);
  /* Another thread takes its number over: the process does not end. */
  if (pid != tgid || task_gives_way_to_exec(task)) return 0;
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

/* The process goes on as another program, whose times are none of QEMU's. Its other threads have ended, but
 * for one that executed it: that had the id `before`. */
static __always_inline int on_exec(struct task_struct* task, u32 before, bool direct) {
  int pid = 0;
  if (!task) return 0;
  READ(direct, pid, task->pid);
  u64 now = bpf_ktime_get_boot_ns();
  u32 ours = 0;
  struct stalls_thread* t = thread_of(pid);
  if (t) {
    end_row(t, pid, now);
    ours = 1;
  }
  t = before != (u32)pid ? thread_of(before) : NULL;
  if (t) {
    end_row(t, before, now);
    ours = 1;
  }
  if (!ours) return 0;
  hit(STALLS_PROBE_EXEC);
  struct stalls_signal end = {};
  end.message = STALLS_MESSAGE_EXEC;
  end.time_ns = now;
  end.target_tgid = pid;
  end.target_tid = pid;
  if (bpf_core_read_str(end.sender_comm, sizeof(end.sender_comm), &task->comm) < 0) end.sender_comm[0] = 0;
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
