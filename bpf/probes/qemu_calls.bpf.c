/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which of QEMU's own functions ran: those that stop the VM, set its run state or see an error. They run
 * rarely, so each call is told, with its arguments and, where that was asked for, registers and stack: QEMU
 * is built without frame pointers, and user space unwinds by .eh_frame. One program for all of them: the
 * cookie says where it is attached. */

#include <linux/ptrace.h>

#include "bpf/include/emit.bpf.h"
#include "bpf/include/qemu_calls.h"
#include "bpf/include/watched.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

STATS_MAP(qemu_calls, QEMU_CALLS_STATS)
RING_MAP(qemu_calls)

#if defined(__TARGET_ARCH_x86)
static __always_inline u64 read_registers(struct pt_regs* ctx, struct qemu_calls_event* event) {
  u64* to = event->registers;
  to[0] = ctx->rax, to[1] = ctx->rdx, to[2] = ctx->rcx, to[3] = ctx->rbx;
  to[4] = ctx->rsi, to[5] = ctx->rdi, to[6] = ctx->rbp, to[7] = ctx->rsp;
  to[8] = ctx->r8, to[9] = ctx->r9, to[10] = ctx->r10, to[11] = ctx->r11;
  to[12] = ctx->r12, to[13] = ctx->r13, to[14] = ctx->r14, to[15] = ctx->r15;
  to[16] = ctx->rip;
  event->arguments[0] = ctx->rdi;
  event->arguments[1] = ctx->rsi;
  event->arguments[2] = ctx->rdx;
  event->arguments[3] = ctx->rcx;
  return ctx->rsp;
}
#elif defined(__TARGET_ARCH_arm64)
static __always_inline u64 read_registers(struct pt_regs* ctx, struct qemu_calls_event* event) {
  const struct user_pt_regs* regs = (const struct user_pt_regs*)ctx;
#pragma unroll
  for (int i = 0; i < 31; i++) event->registers[i] = regs->regs[i];
  event->registers[31] = regs->sp;
  event->registers[32] = regs->pc;
#pragma unroll
  for (int i = 0; i < QEMU_CALLS_ARGUMENTS; i++) event->arguments[i] = regs->regs[i];
  return regs->sp;
}
#endif

static __always_inline void fill(struct pt_regs* ctx, struct qemu_calls_event* event, u64 me, u64 cookie) {
  event->time_ns = bpf_ktime_get_boot_ns();
  event->tgid = me >> 32;
  event->tid = me;
  event->place = cookie & QEMU_CALLS_PLACE;
  event->stack_bytes = 0;
  __builtin_memset(event->registers, 0, sizeof(event->registers));
  __builtin_memset(event->strings, 0, sizeof(event->strings));
}

SEC("uprobe")
int enter_qemu_function(struct pt_regs* ctx) {
  u64 me = bpf_get_current_pid_tgid(), cookie = bpf_get_attach_cookie(ctx);
  u32 tgid = me >> 32;
  if (!watched(tgid)) return 0;
  stat_add(QEMU_CALLS_STAT_CALLS, 1);
  if (!(cookie & QEMU_CALLS_WITH_STACK)) {
    struct qemu_calls_event* event = bpf_ringbuf_reserve(&qemu_calls_ring, sizeof(*event), 0);
    if (!event) {
      stat_add(QEMU_CALLS_STAT_RING_FULL, 1);
      return 0;
    }
    fill(ctx, event, me, cookie);
    read_registers(ctx, event);
    if (cookie & QEMU_CALLS_WITH_STRINGS) {
#pragma unroll
      for (int i = 0; i < QEMU_CALLS_STRINGS; i++)
        if (bpf_probe_read_user_str(event->strings[i], QEMU_CALLS_STRING, (const void*)event->arguments[i]) <
            0)
          event->strings[i][0] = 0;
    }
    bpf_ringbuf_submit(event, 0);
    return 0;
  }
  struct with_stack {
    struct qemu_calls_event event;
    char stack[QEMU_CALLS_CHUNKS][QEMU_CALLS_CHUNK];
  };
  struct with_stack* whole = bpf_ringbuf_reserve(&qemu_calls_ring, sizeof(*whole), 0);
  if (!whole) {
    stat_add(QEMU_CALLS_STAT_RING_FULL, 1);
    return 0;
  }
  fill(ctx, &whole->event, me, cookie);
  u64 from = read_registers(ctx, &whole->event);
  u32 read = 0;
  /* A stack that ends is not readable beyond: what was read till then counts. */
#pragma unroll
  for (u32 i = 0; i < QEMU_CALLS_CHUNKS; i++) {
    if (read == i * QEMU_CALLS_CHUNK && bpf_probe_read_user(whole->stack[i], QEMU_CALLS_CHUNK,
                                                            (const void*)(from + i * QEMU_CALLS_CHUNK)) == 0)
      read += QEMU_CALLS_CHUNK;
  }
  whole->event.stack_bytes = read;
  bpf_ringbuf_submit(whole, 0);
  return 0;
}
