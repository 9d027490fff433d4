/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* Requests of the block layer, of whomever: who sent one cannot be told here. */

#include "bpf/probes/io_ledger/common.bpf.h"

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, IO_LEDGER_SLOTS);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, u32);
  __type(value, struct io_ledger_block_slot);
} block_slots SEC(".maps");

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

static __always_inline void tell_failure(struct io_ledger_event* event, struct gendisk* disk, u32 flags,
                                         u64 sector) {
  stat_add(IO_LEDGER_STAT_BLOCK, 1);
  event->time_ns = bpf_ktime_get_boot_ns();
  event->what = IO_LEDGER_BLOCK;
  event->fd = -1;
  event->offset = sector;
  event->mode = flags;
  event->op = block_op(flags);
  if (disk) {
    event->dev = dev_of(disk);
    bpf_core_read_str(event->disk, sizeof(event->disk), &disk->disk_name);
  } else {
    stat_add(IO_LEDGER_STAT_READ_FAILED, 1);
  }
  emit(event, sizeof(*event), IO_LEDGER_STAT_RING_FULL, 1, 0);
}

/* Failures only, of every process. block_rq_error came with 5.18; before it block_rq_complete has the same
 * arguments. */
static __always_inline int request_failed(struct request* request, u64 error, u32 bytes) {
  if (!(u32)error) return 0;
  struct io_ledger_event event = {};
  u64 sector = 0;
  u32 flags = 0;
  event.length = bytes;
  /* An errno until 5.15, a blk_status_t (one byte) since. */
  event.result = (s32)error < 0 ? (s32)error : (s32)(error & 0xff);
  if (bpf_core_read(&sector, sizeof(sector), &request->__sector) != 0 ||
      bpf_core_read(&flags, sizeof(flags), &request->cmd_flags) != 0)
    stat_add(IO_LEDGER_STAT_READ_FAILED, 1);
  tell_failure(&event, disk_of(request), flags, sector);
  return 0;
}

SEC("raw_tp/block_rq_error")
int raw_block_rq_error(struct bpf_raw_tracepoint_args* ctx) {
  return request_failed((struct request*)ctx->args[0], ctx->args[1], ctx->args[2]);
}

SEC("raw_tp/block_rq_complete")
int raw_block_rq_complete(struct bpf_raw_tracepoint_args* ctx) {
  return request_failed((struct request*)ctx->args[0], ctx->args[1], ctx->args[2]);
}

/* Device mapper, md, brd, zram and multipath NVMe make no requests of their own: their bios tell. What ends
 * as a request is left out by the kernel here. */
SEC("raw_tp/block_bio_complete")
int raw_block_bio_complete(struct bpf_raw_tracepoint_args* ctx) {
  struct bio* bio = (struct bio*)ctx->args[1];
  struct block_device* device = NULL;
  struct gendisk* disk = NULL;
  struct bvec_iter place = {};
  u32 flags = 0;
  u8 status = 0;
  if (bpf_core_read(&status, sizeof(status), &bio->bi_status) != 0 || !status) return 0;
  if (bpf_core_read(&flags, sizeof(flags), &bio->bi_opf) != 0) return 0;
  struct io_ledger_event event = {};
  event.result = status;
  bpf_core_read(&place.bi_sector, sizeof(place.bi_sector), &bio->bi_iter.bi_sector);
  bpf_core_read(&place.bi_size, sizeof(place.bi_size), &bio->bi_iter.bi_size);
  event.length = place.bi_size;
  if (bpf_core_read(&device, sizeof(device), &bio->bi_bdev) == 0 && device)
    bpf_core_read(&disk, sizeof(disk), &device->bd_disk);
  tell_failure(&event, disk, flags, place.bi_sector);
  return 0;
}
