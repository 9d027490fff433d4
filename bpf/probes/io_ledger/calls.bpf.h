/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* System calls of watched processes, from their entry to their end. */

#include <linux/ptrace.h>

#include <bpf/bpf_tracing.h>

#include "bpf/probes/io_ledger/common.bpf.h"

const volatile __u8 call_of[IO_LEDGER_NUMBERS]; /* raw form: an enum io_ledger_call by system call number. */

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, IO_LEDGER_SLOTS);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, u32);
  __type(value, struct io_ledger_slot);
} slots SEC(".maps");

struct iovec_ {
  u64 base;
  u64 length;
};

static __always_inline u32 first_slot(u64 pid_tgid) {
  return (u32)pid_tgid * 2654435761u >> 16;
}

/* @return the bytes of all vectors, or UINT64_MAX. */
static __noinline u64 iovec_bytes(u64 address, u32 count) {
  u64 sum = 0;
  for (u32 i = 0; i < IO_LEDGER_IOVECS; i++) {
    struct iovec_ vector;
    if (i >= count) break;
    if (bpf_probe_read_user(&vector, sizeof(vector), (const void*)(address + i * sizeof(vector))) != 0) {
      stat_add(IO_LEDGER_STAT_IOV_UNREAD, 1);
      return ~0ull;
    }
    sum += vector.length;
  }
  return sum;
}

struct arguments {
  u64 at[4];
};

static __always_inline bool read_arguments(const void* regs, struct arguments* out) {
#if defined(__TARGET_ARCH_x86)
  struct pt_regs copy;
  if (bpf_probe_read_kernel(&copy, sizeof(copy), regs) != 0) return false;
  out->at[0] = copy.rdi;
  out->at[1] = copy.rsi;
  out->at[2] = copy.rdx;
  out->at[3] = copy.r10;
  return true;
#elif defined(__TARGET_ARCH_arm64)
  return bpf_probe_read_kernel(out, sizeof(*out), regs) == 0; /* regs[0] to regs[3] stand first. */
#else
  return false;
#endif
}

static __always_inline u32 op_of(u32 call, u32 mode) {
  switch (call) {
    case IO_LEDGER_PREAD64:
    case IO_LEDGER_PREADV:
    case IO_LEDGER_PREADV2:
      return IO_LEDGER_OP_READ;
    case IO_LEDGER_PWRITE64:
    case IO_LEDGER_PWRITEV:
    case IO_LEDGER_PWRITEV2:
      return IO_LEDGER_OP_WRITE;
    case IO_LEDGER_FSYNC:
    case IO_LEDGER_FDATASYNC:
      return IO_LEDGER_OP_FLUSH;
    default:
      /* FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE. */
      return mode & 2 ? IO_LEDGER_OP_DISCARD : mode & 16 ? IO_LEDGER_OP_ZEROES : IO_LEDGER_OP_ALLOCATE;
  }
}

static __noinline int enter(const void* regs, u32 call) {
  u64 me = bpf_get_current_pid_tgid();
  if (!watched(me >> 32)) return 0;
  stat_add(IO_LEDGER_STAT_CALLS, 1);
  struct arguments arguments = {};
  if (!read_arguments(regs, &arguments)) {
    stat_add(IO_LEDGER_STAT_READ_FAILED, 1);
    return 0;
  }
  struct io_ledger_slot* slot = NULL;
  u32 first = first_slot(me);
  for (u32 i = 0; i < IO_LEDGER_TRIES; i++) {
    u32 index = (first + i) & (IO_LEDGER_SLOTS - 1);
    struct io_ledger_slot* candidate = bpf_map_lookup_elem(&slots, &index);
    if (!candidate) continue;
    /* One's own is left over from a call that was not seen to end. */
    if (candidate->owner != me && __sync_val_compare_and_swap(&candidate->owner, 0, me) != 0) continue;
    slot = candidate;
    break;
  }
  if (!slot) {
    stat_add(IO_LEDGER_STAT_UNTIMED, 1);
    return 0;
  }
  slot->start_ns = 0;
  slot->fd = arguments.at[0];
  slot->call = call;
  slot->mode = 0;
  slot->offset = 0;
  slot->length = 0;
  switch (call) {
    case IO_LEDGER_PREAD64:
    case IO_LEDGER_PWRITE64:
      slot->length = arguments.at[2];
      slot->offset = arguments.at[3];
      break;
    case IO_LEDGER_PREADV:
    case IO_LEDGER_PWRITEV:
    case IO_LEDGER_PREADV2:
    case IO_LEDGER_PWRITEV2:
      slot->length = iovec_bytes(arguments.at[1], arguments.at[2]);
      slot->offset = arguments.at[3];
      break;
    case IO_LEDGER_FALLOCATE:
      slot->mode = arguments.at[1];
      slot->offset = arguments.at[2];
      slot->length = arguments.at[3];
      break;
  }
  slot->op = op_of(call, slot->mode);
  slot->start_ns = bpf_ktime_get_boot_ns();
  return 0;
}

static __always_inline struct file* file_of(s32 fd) {
  struct task_struct* task = (struct task_struct*)bpf_get_current_task();
  struct files_struct* files = NULL;
  struct fdtable* table = NULL;
  struct file** array = NULL;
  struct file* file = NULL;
  u32 max = 0;
  if (fd < 0 || bpf_core_read(&files, sizeof(files), &task->files) != 0 || !files) return NULL;
  if (bpf_core_read(&table, sizeof(table), &files->fdt) != 0 || !table) return NULL;
  if (bpf_core_read(&max, sizeof(max), &table->max_fds) != 0 || (u32)fd >= max) return NULL;
  if (bpf_core_read(&array, sizeof(array), &table->fd) != 0 || !array) return NULL;
  if (bpf_probe_read_kernel(&file, sizeof(file), array + fd) != 0) return NULL;
  return file;
}

static __noinline int leave(s64 result) {
  u64 me = bpf_get_current_pid_tgid();
  if (!watched(me >> 32)) return 0;
  struct io_ledger_slot* slot = NULL;
  u32 first = first_slot(me);
  for (u32 i = 0; i < IO_LEDGER_TRIES; i++) {
    u32 index = (first + i) & (IO_LEDGER_SLOTS - 1);
    struct io_ledger_slot* candidate = bpf_map_lookup_elem(&slots, &index);
    if (!candidate || candidate->owner != me) continue;
    slot = candidate;
    break;
  }
  if (!slot || !slot->start_ns) return 0;
  struct io_ledger_event event = {};
  event.time_ns = bpf_ktime_get_boot_ns();
  event.duration_ns = event.time_ns - slot->start_ns;
  event.offset = slot->offset;
  event.length = slot->length;
  event.fd = slot->fd;
  event.call = slot->call;
  event.op = slot->op;
  event.mode = slot->mode;
  slot->start_ns = 0;
  slot->owner = 0;
  event.result = result;
  event.tgid = me >> 32;
  event.tid = me;
  if (with_stats) {
    u64 key = me >> 32 << 32 | (u32)event.fd;
    u32* row = bpf_map_lookup_elem(&file_rows, &key);
    if (row) count(*row, event.op, result, event.duration_ns);
  }
  bool moves = event.op == IO_LEDGER_OP_READ || event.op == IO_LEDGER_OP_WRITE;
  if (result < 0)
    event.what = harmless(result, event.op) ? 0 : IO_LEDGER_FAILED;
  else if (moves && event.length != ~0ull && (u64)result < event.length)
    event.what = IO_LEDGER_SHORT;
  if (!event.what && event.duration_ns >= slow_ns) event.what = IO_LEDGER_SLOW;
  if (!event.what) return 0;
  u64 size = identify(file_of(event.fd), &event);
  if (event.what == IO_LEDGER_SHORT && event.op == IO_LEDGER_OP_READ && event.offset + result >= size) {
    if (event.duration_ns < slow_ns) return 0; /* The end of the file. */
    event.what = IO_LEDGER_SLOW;
  }
  emit(&event, sizeof(event), IO_LEDGER_STAT_RING_FULL, 1, 0);
  return 0;
}

/* Of a watched process the file is known by its descriptor; `call_of` has a 0 for all other system calls. */
SEC("raw_tp/sys_enter")
int raw_sys_enter(struct bpf_raw_tracepoint_args* ctx) {
  u64 number = ctx->args[1];
  if (number >= IO_LEDGER_NUMBERS) return 0;
  u32 call = call_of[number & (IO_LEDGER_NUMBERS - 1)];
  return call ? enter((const void*)ctx->args[0], call) : 0;
}

SEC("raw_tp/sys_exit")
int raw_sys_exit(struct bpf_raw_tracepoint_args* ctx) {
  /* Cheap for whom no slot is held; the number is not an argument. */
  return leave(ctx->args[1]);
}

/* The loader sets the targets: the name of a system call's function depends on the architecture. */
#define SYSTEM_CALL(name, call)              \
  SEC("fentry")                              \
  int enter_##name(u64* ctx) {               \
    return enter((const void*)ctx[0], call); \
  }                                          \
  SEC("fexit")                               \
  int leave_##name(u64* ctx) {               \
    return leave(ctx[1]);                    \
  }

SYSTEM_CALL(pread64, IO_LEDGER_PREAD64)
SYSTEM_CALL(pwrite64, IO_LEDGER_PWRITE64)
SYSTEM_CALL(preadv, IO_LEDGER_PREADV)
SYSTEM_CALL(pwritev, IO_LEDGER_PWRITEV)
SYSTEM_CALL(preadv2, IO_LEDGER_PREADV2)
SYSTEM_CALL(pwritev2, IO_LEDGER_PWRITEV2)
SYSTEM_CALL(fsync, IO_LEDGER_FSYNC)
SYSTEM_CALL(fdatasync, IO_LEDGER_FDATASYNC)
SYSTEM_CALL(fallocate, IO_LEDGER_FALLOCATE)
