/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* What the probe family qemu_calls and user space share. Valid C11 and C++20. All times are nanoseconds of
 * CLOCK_BOOTTIME. */

#include <linux/types.h>

enum {
  QEMU_CALLS_REGISTERS = 33, /* As DWARF numbers them. */
  QEMU_CALLS_ARGUMENTS = 4,
  QEMU_CALLS_STRINGS = 3,
  QEMU_CALLS_STRING = 64, /* Bytes, the NUL included. */
  QEMU_CALLS_CHUNK = 1024,
  QEMU_CALLS_CHUNKS = 16, /* Of the stack, beginning at the stack pointer. */
};

/* The cookie of a breakpoint: its number, and what to take along. */
enum qemu_calls_cookie {
  QEMU_CALLS_PLACE = 0xff,
  QEMU_CALLS_WITH_STACK = 0x100,
  QEMU_CALLS_WITH_STRINGS = 0x200, /* What the first arguments point to. */
};

/* Rows of qemu_calls_stats. */
enum qemu_calls_stat {
  QEMU_CALLS_STAT_CALLS = 0,     /* Of watched processes. */
  QEMU_CALLS_STAT_RING_FULL = 1, /* Calls that did not fit into the ring. */
  QEMU_CALLS_STATS = 2,
};

/* What travels through the ring. `stack_bytes` of the stack stand behind it. */
struct qemu_calls_event {
  __u64 time_ns; /* When the function was entered, or a static probe passed. */
  __u32 tgid;
  __u32 tid;
  __u32 place;       /* The number of the cookie. */
  __u32 stack_bytes; /* From the stack pointer upwards; 0: not asked for, or not readable. */
  __u64 arguments[QEMU_CALLS_ARGUMENTS];
  __u64 registers[QEMU_CALLS_REGISTERS]; /* x86-64: the 16 and the instruction pointer; arm64: x0 to x30, sp,
                                            pc. */
  char strings[QEMU_CALLS_STRINGS][QEMU_CALLS_STRING]; /* "" where an argument is no string's address. */
};
