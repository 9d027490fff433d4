/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* io_uring's requests of watched processes, when they end. */

#include "bpf/probes/io_ledger/common.bpf.h"

const volatile __u32 uring_arguments; /* io_uring_complete's: 3 or 7. */

static __always_inline u32 uring_op(u32 opcode) {
  switch (opcode) {
    case 1: /* IORING_OP_READV, _READ_FIXED, _READ. */
    case 4:
    case 22:
      return IO_LEDGER_OP_READ;
    case 2: /* _WRITEV, _WRITE_FIXED, _WRITE. */
    case 5:
    case 23:
      return IO_LEDGER_OP_WRITE;
    case 3:
      return IO_LEDGER_OP_FLUSH;
    case 17:
      return IO_LEDGER_OP_ALLOCATE;
    default:
      return IO_LEDGER_OP_NONE;
  }
}

/* Failures only. It may run in another thread's context: the request itself says whose it is. */
SEC("raw_tp/io_uring_complete")
int raw_io_uring_complete(struct bpf_raw_tracepoint_args* ctx) {
  struct io_kiocb* request = (struct io_kiocb*)ctx->args[1];
  s32 result = 0;
  if (uring_arguments == 3) {
    struct io_uring_cqe* entry = (struct io_uring_cqe*)ctx->args[2];
    if (bpf_core_read(&result, sizeof(result), &entry->res) != 0) return 0;
  } else {
    result = ctx->args[3];
  }
  if (!request || (result >= 0 && !with_stats)) return 0;
  struct task_struct* task = NULL;
  struct io_uring_task* context = NULL;
  struct io_kiocb___v6_12* older = (void*)request;
  struct file* file = NULL;
  u8 opcode = 0;
  if (bpf_core_field_exists(older->task))
    bpf_core_read(&task, sizeof(task), &older->task);
  else if (bpf_core_read(&context, sizeof(context), &request->tctx) == 0 && context)
    bpf_core_read(&task, sizeof(task), &context->task);
  u32 tgid = 0, tid = 0;
  if (!task || bpf_core_read(&tgid, sizeof(tgid), &task->tgid) != 0 ||
      bpf_core_read(&tid, sizeof(tid), &task->pid) != 0) {
    stat_add(IO_LEDGER_STAT_READ_FAILED, 1);
    return 0;
  }
  if (!watched(tgid)) return 0;
  if (bpf_core_read(&opcode, sizeof(opcode), &request->opcode) != 0) return 0;
  u32 op = uring_op(opcode);
  if (!op || harmless(result, op) || result == -125) return 0; /* ECANCELED */
  if (with_stats && bpf_core_read(&file, sizeof(file), &request->file) == 0) {
    struct io_ledger_event seen = {};
    identify(file, &seen);
    struct io_ledger_inode inode = {seen.ino, seen.dev, 0};
    u32* row = bpf_map_lookup_elem(&inode_rows, &inode);
    if (row) count(*row, op, result, 0);
  }
  if (result >= 0) return 0;
  stat_add(IO_LEDGER_STAT_URING, 1);
  struct io_ledger_event event = {};
  event.time_ns = bpf_ktime_get_boot_ns();
  event.what = IO_LEDGER_FAILED;
  event.call = IO_LEDGER_IO_URING;
  event.op = op;
  event.result = result;
  event.tgid = tgid;
  event.tid = tid;
  event.fd = -1;
  event.length = ~0ull;
  if (op == IO_LEDGER_OP_READ || op == IO_LEDGER_OP_WRITE) {
    struct kiocb* head = (struct kiocb*)request; /* What a read or write keeps begins with it. */
    bpf_core_read(&event.offset, sizeof(event.offset), &head->ki_pos);
  }
  if (bpf_core_read(&file, sizeof(file), &request->file) == 0) identify(file, &event);
  emit(&event, sizeof(event), IO_LEDGER_STAT_RING_FULL, 1, 0);
  return 0;
}
