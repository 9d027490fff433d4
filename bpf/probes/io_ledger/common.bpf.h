/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* What the parts of io_ledger share: who is watched, the rows in which requests are counted, which file it
 * is. */

#include "bpf/include/emit.bpf.h"
#include "bpf/include/io_ledger.h"
#include "bpf/include/storage.bpf.h"
#include "bpf/include/watched.bpf.h"

const volatile __u64 slow_ns = 500000000;
const volatile __u8 with_stats; /* Successes are counted too, in `cells`. */

STATS_MAP(io_ledger, IO_LEDGER_STATS)
RING_MAP(io_ledger)

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
