/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which storage requests of watched processes failed, were short or slow, and which are under way; and which
 * requests of the block layer failed.
 *
 * A request under way takes a slot of a fixed table by compare-and-swap, found again through its thread's id:
 * nothing is inserted into a map, nothing takes a lock. Successes leave no trace but their slot's. */

#include <linux/ptrace.h>

#include <bpf/bpf_tracing.h>

#include "bpf/include/emit.bpf.h"
#include "bpf/include/io_ledger.h"
#include "bpf/include/storage.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u64 slow_ns = 500000000;
const volatile __u8 call_of[IO_LEDGER_NUMBERS]; /* raw form: an enum io_ledger_call by system call number. */
const volatile __u8 with_stats;                 /* Successes are counted too, in `cells`. */
const volatile __u32 uring_arguments;           /* io_uring_complete's: 3 or 7. */

STATS_MAP(io_ledger, IO_LEDGER_STATS)
RING_MAP(io_ledger)

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, IO_LEDGER_SLOTS);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, u32);
  __type(value, struct io_ledger_slot);
} slots SEC(".maps");

/* User space fills it. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 16384);
  __type(key, u32);
  __type(value, u8);
} watched_pids SEC(".maps");

/* User space sets the size, and fills the three maps that say which row a request belongs to. */
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, IO_LEDGER_COLUMNS);
  __type(key, u32);
  __type(value, struct io_ledger_cell);
} cells SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1);
  __type(key, u64); /* tgid << 32 | fd */
  __type(value, u32);
} file_rows SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1);
  __type(key, struct io_ledger_inode);
  __type(value, u32);
} inode_rows SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1);
  __type(key, u32); /* dev */
  __type(value, u32);
} disk_rows SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, IO_LEDGER_SLOTS);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, u32);
  __type(value, struct io_ledger_block_slot);
} block_slots SEC(".maps");

static __always_inline u32 log2_bucket(u64 ns) {
  u32 bucket = 0;
  ns >>= 10;
  for (u32 step = 32; step; step >>= 1) {
    if (ns >> (step - 1)) {
      bucket += step;
      ns >>= step;
    }
  }
  return bucket < IO_LEDGER_BUCKETS ? bucket : IO_LEDGER_BUCKETS - 1;
}

/* @param duration_ns  0: not known. */
static __always_inline void count(u32 row, u32 op, s64 result, u64 duration_ns) {
  u32 column = op == IO_LEDGER_OP_READ ? 0 : op == IO_LEDGER_OP_WRITE ? 1 : op == IO_LEDGER_OP_FLUSH ? 2 : 3;
  u32 index = row * IO_LEDGER_COLUMNS + column;
  struct io_ledger_cell* cell = bpf_map_lookup_elem(&cells, &index);
  if (!cell) return;
  cell->count++;
  if (result < 0)
    cell->errors++;
  else
    cell->bytes += result;
  if (!duration_ns) return;
  cell->total_ns += duration_ns;
  if (duration_ns > cell->max_ns) cell->max_ns = duration_ns;
  u32 bucket = log2_bucket(duration_ns);
  if (bucket < IO_LEDGER_BUCKETS) cell->log2[bucket]++;
}

struct iovec_ {
  u64 base;
  u64 length;
};

static __always_inline bool watched(u32 tgid) {
  return bpf_map_lookup_elem(&watched_pids, &tgid) != NULL;
}

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

/* Results that are no failures: try again, interrupted, not offered. */
static __always_inline bool harmless(s64 result, u32 op) {
  if (result == -11 || result == -4 || result == -38 || (result <= -512 && result >= -530)) return true;
  /* QEMU tries these, and does without. */
  return result == -95 && op >= IO_LEDGER_OP_ALLOCATE;
}

/* @return the size of what the file leads to. */
static __always_inline u64 identify(struct file* file, struct io_ledger_event* event) {
  struct inode* inode = NULL;
  struct super_block* super = NULL;
  struct address_space* mapping = NULL;
  long long size = 0;
  unsigned long ino = 0;
  if (!file || bpf_core_read(&inode, sizeof(inode), &file->f_inode) != 0 || !inode) goto failed;
  if (bpf_core_read(&ino, sizeof(ino), &inode->i_ino) != 0) goto failed;
  event->ino = ino;
  bpf_core_read(&event->rdev, sizeof(event->rdev), &inode->i_rdev);
  if (bpf_core_read(&super, sizeof(super), &inode->i_sb) == 0 && super)
    bpf_core_read(&event->dev, sizeof(event->dev), &super->s_dev);
  /* A device node's own inode has no size; the device's has. */
  if (bpf_core_read(&mapping, sizeof(mapping), &file->f_mapping) != 0 || !mapping) goto failed;
  if (bpf_core_read(&inode, sizeof(inode), &mapping->host) != 0 || !inode) goto failed;
  if (bpf_core_read(&size, sizeof(size), &inode->i_size) != 0) goto failed;
  return size;
failed:
  stat_add(IO_LEDGER_STAT_READ_FAILED, 1);
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

static __always_inline u32 block_op(u32 flags) {
  switch (flags & 0xff) {
    case 0:
      return IO_LEDGER_OP_READ;
    case 1:
      return IO_LEDGER_OP_WRITE;
    case 2:
      return IO_LEDGER_OP_FLUSH;
    case 3:
    case 5:
      return IO_LEDGER_OP_DISCARD;
    case 9:
      return IO_LEDGER_OP_ZEROES;
    default:
      return IO_LEDGER_OP_OTHER;
  }
}

static __always_inline struct gendisk* disk_of(struct request* request) {
  struct request_queue* queue = NULL;
  struct gendisk* disk = NULL;
  if (bpf_core_read(&queue, sizeof(queue), &request->q) != 0 || !queue ||
      !bpf_core_field_exists(queue->disk) || bpf_core_read(&disk, sizeof(disk), &queue->disk) != 0)
    return NULL;
  return disk;
}

static __always_inline u32 dev_of(struct gendisk* disk) {
  int major = 0, minor = 0;
  bpf_core_read(&major, sizeof(major), &disk->major);
  bpf_core_read(&minor, sizeof(minor), &disk->first_minor);
  return (u32)major << 20 | ((u32)minor & 0xfffff);
}

/* The row of a request to a disk that is counted, or NULL. */
static __always_inline u32* block_row(struct request* request, u32* dev) {
  struct gendisk* disk = disk_of(request);
  if (!disk) return NULL;
  *dev = dev_of(disk);
  return bpf_map_lookup_elem(&disk_rows, dev);
}

static __always_inline u32 first_block_slot(u64 request) {
  return (u32)(request >> 6) * 2654435761u >> 16;
}

SEC("raw_tp/block_rq_issue")
int stats_block_rq_issue(struct bpf_raw_tracepoint_args* ctx) {
  struct request* request = (struct request*)ctx->args[0];
  u64 me = (u64)request;
  u32 dev = 0, flags = 0;
  if (!block_row(request, &dev)) return 0;
  u32 first = first_block_slot(me);
  for (u32 i = 0; i < IO_LEDGER_TRIES; i++) {
    u32 index = (first + i) & (IO_LEDGER_SLOTS - 1);
    struct io_ledger_block_slot* slot = bpf_map_lookup_elem(&block_slots, &index);
    if (!slot) continue;
    /* One's own: it was requeued. */
    if (slot->owner != me && __sync_val_compare_and_swap(&slot->owner, 0, me) != 0) continue;
    slot->start_ns = 0;
    bpf_core_read(&slot->sector, sizeof(slot->sector), &request->__sector);
    bpf_core_read(&slot->length, sizeof(slot->length), &request->__data_len);
    bpf_core_read(&flags, sizeof(flags), &request->cmd_flags);
    slot->dev = dev;
    slot->op = block_op(flags);
    slot->start_ns = bpf_ktime_get_boot_ns();
    return 0;
  }
  stat_add(IO_LEDGER_STAT_BLOCK_UNTIMED, 1);
  return 0;
}

SEC("raw_tp/block_rq_complete")
int stats_block_rq_complete(struct bpf_raw_tracepoint_args* ctx) {
  struct request* request = (struct request*)ctx->args[0];
  u64 me = (u64)request, duration = 0;
  u32 dev = 0, flags = 0;
  u32* row = block_row(request, &dev);
  if (!row) return 0;
  u32 first = first_block_slot(me);
  for (u32 i = 0; i < IO_LEDGER_TRIES; i++) {
    u32 index = (first + i) & (IO_LEDGER_SLOTS - 1);
    struct io_ledger_block_slot* slot = bpf_map_lookup_elem(&block_slots, &index);
    if (!slot || slot->owner != me) continue;
    if (slot->start_ns) duration = bpf_ktime_get_boot_ns() - slot->start_ns;
    slot->start_ns = 0;
    slot->owner = 0;
    break;
  }
  bpf_core_read(&flags, sizeof(flags), &request->cmd_flags);
  s64 result = (u32)ctx->args[1] ? -1 : (s64)(u32)ctx->args[2];
  count(*row, block_op(flags), result, duration);
  return 0;
}

/* Failures only, of every process: who sent a request cannot be told here. block_rq_error came with 5.18;
 * before it block_rq_complete has the same arguments. */
static __always_inline int block(struct request* request, u64 error, u32 bytes) {
  if (!(u32)error) return 0;
  stat_add(IO_LEDGER_STAT_BLOCK, 1);
  struct io_ledger_event event = {};
  u32 flags = 0;
  event.time_ns = bpf_ktime_get_boot_ns();
  event.what = IO_LEDGER_BLOCK;
  event.fd = -1;
  event.length = bytes;
  /* An errno until 5.15, a blk_status_t (one byte) since. */
  event.result = (s32)error < 0 ? (s32)error : (s32)(error & 0xff);
  if (bpf_core_read(&event.offset, sizeof(event.offset), &request->__sector) != 0 ||
      bpf_core_read(&flags, sizeof(flags), &request->cmd_flags) != 0)
    stat_add(IO_LEDGER_STAT_READ_FAILED, 1);
  event.mode = flags;
  event.op = block_op(flags);
  struct gendisk* disk = disk_of(request);
  if (disk) {
    event.dev = dev_of(disk);
    bpf_core_read_str(event.disk, sizeof(event.disk), &disk->disk_name);
  } else {
    stat_add(IO_LEDGER_STAT_READ_FAILED, 1);
  }
  emit(&event, sizeof(event), IO_LEDGER_STAT_RING_FULL, 1, 0);
  return 0;
}

SEC("raw_tp/block_rq_error")
int raw_block_rq_error(struct bpf_raw_tracepoint_args* ctx) {
  return block((struct request*)ctx->args[0], ctx->args[1], ctx->args[2]);
}

SEC("raw_tp/block_rq_complete")
int raw_block_rq_complete(struct bpf_raw_tracepoint_args* ctx) {
  return block((struct request*)ctx->args[0], ctx->args[1], ctx->args[2]);
}

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
