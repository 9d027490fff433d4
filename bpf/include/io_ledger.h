/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* What the probe family io_ledger and user space share. Valid C11 and C++20. All times are nanoseconds of
 * CLOCK_BOOTTIME or durations. */

#include <linux/types.h>

enum {
  IO_LEDGER_SLOTS = 4096,  /* Requests under way at once, of all watched processes; a power of two. */
  IO_LEDGER_TRIES = 8,     /* Slots that a request tries before it goes untimed. */
  IO_LEDGER_NUMBERS = 512, /* System call numbers that can be looked up. */
  IO_LEDGER_IOVECS = 1024, /* IOV_MAX. */
  IO_LEDGER_BUCKETS = 32,
  IO_LEDGER_COLUMNS = 4, /* Cells of a row: read, write, flush, everything else. */
};

enum io_ledger_op {
  IO_LEDGER_OP_NONE = 0,
  IO_LEDGER_OP_READ = 1,
  IO_LEDGER_OP_WRITE = 2,
  IO_LEDGER_OP_FLUSH = 3,
  IO_LEDGER_OP_ALLOCATE = 4, /* fallocate that adds space. */
  IO_LEDGER_OP_DISCARD = 5,  /* Hole punching; the block layer's discard and secure erase. */
  IO_LEDGER_OP_ZEROES = 6,
  IO_LEDGER_OP_OTHER = 7,
};

enum io_ledger_call {
  IO_LEDGER_CALL_NONE = 0,
  IO_LEDGER_PREAD64 = 1,
  IO_LEDGER_PWRITE64 = 2,
  IO_LEDGER_PREADV = 3,
  IO_LEDGER_PWRITEV = 4,
  IO_LEDGER_PREADV2 = 5,
  IO_LEDGER_PWRITEV2 = 6,
  IO_LEDGER_FSYNC = 7,
  IO_LEDGER_FDATASYNC = 8,
  IO_LEDGER_FALLOCATE = 9,
  IO_LEDGER_IO_URING = 10,
  IO_LEDGER_CALLS = 11,
};

enum io_ledger_what {
  IO_LEDGER_FAILED = 1,
  IO_LEDGER_SHORT = 2, /* Less was done than asked for; reads at the end of the file are left out. */
  IO_LEDGER_SLOW = 3,
  IO_LEDGER_BLOCK = 4, /* A request of the block layer failed. */
};

/* Rows of io_ledger_stats. UNTIMED and IOV_UNREAD say that something of a request is not known, RING_FULL
 * that a failure is missing from the result. */
enum io_ledger_stat {
  IO_LEDGER_STAT_CALLS = 0,         /* Requests of watched processes that were seen to begin. */
  IO_LEDGER_STAT_RING_FULL = 1,     /* Failures that did not fit into the ring. */
  IO_LEDGER_STAT_UNTIMED = 2,       /* Requests that found no slot. */
  IO_LEDGER_STAT_IOV_UNREAD = 3,    /* Requests whose length could not be read. */
  IO_LEDGER_STAT_READ_FAILED = 4,   /* Kernel memory that could not be read: a field of a record is 0. */
  IO_LEDGER_STAT_BLOCK = 5,         /* Failed requests of the block layer, of whomever. */
  IO_LEDGER_STAT_URING = 6,         /* Failed io_uring requests, of whomever. */
  IO_LEDGER_STAT_BLOCK_UNTIMED = 7, /* Block requests that found no slot. */
  IO_LEDGER_STATS = 8,
};

/* A request under way. Taken by compare-and-swap of `owner`, so no lock and no insert. */
struct io_ledger_slot {
  __u64 owner;    /* As bpf_get_current_pid_tgid(); 0: free. */
  __u64 start_ns; /* 0: being filled. */
  __u64 offset;
  __u64 length; /* UINT64_MAX: not known. */
  __s32 fd;
  __u32 call; /* An enum io_ledger_call. */
  __u32 op;   /* An enum io_ledger_op. */
  __u32 mode; /* fallocate's. */
};

/* A block layer request under way. `owner` is its address, of no meaning to user space. */
struct io_ledger_block_slot {
  __u64 owner;    /* 0: free. */
  __u64 start_ns; /* When it was issued to the driver; 0: being filled. */
  __u64 sector;
  __u32 length;
  __u32 dev; /* The disk's: major << 20 | minor. */
  __u32 op;
  __u32 reserved;
};

/* Requests of one operation to one file or disk that have ended. A row has IO_LEDGER_COLUMNS of them. */
struct io_ledger_cell {
  __u64 count;
  __u64 errors;
  __u64 bytes; /* Of those that went well. */
  __u64 total_ns;
  __u64 max_ns;
  /* Bucket i counts durations of [2^(i+9), 2^(i+10)) ns; the first and the last also what lies beyond. What
   * was not timed is in `count` alone. */
  __u64 log2[IO_LEDGER_BUCKETS];
};

struct io_ledger_inode {
  __u64 ino;
  __u32 dev;
  __u32 reserved;
};

/* What travels through the ring. */
struct io_ledger_event {
  __u64 time_ns;     /* When it ended. */
  __u64 duration_ns; /* 0: not known. */
  __u64 offset;
  __u64 length; /* UINT64_MAX: not known. */
  __s64 result; /* Bytes, or minus errno; block: minus errno, or the blk_status_t. */
  __u64 ino;    /* Of the file; 0: not known. */
  __u32 dev;    /* As the kernel numbers it: major << 20 | minor. Block: of the disk. */
  __u32 rdev;   /* Of a device node. */
  __u32 tgid;
  __u32 tid;
  __s32 fd; /* -1: not known. */
  __u32 what;
  __u32 call;
  __u32 op;
  __u32 mode;
  __u32 reserved;
  char disk[32]; /* Block: the disk's name. */
};
