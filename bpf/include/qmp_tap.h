/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* What the probe family qmp_tap and user space share. Valid C11 and C++20. All times are nanoseconds of
 * CLOCK_BOOTTIME. */

#include <linux/types.h>

enum {
  QMP_TAP_TINY = 96, /* Sizes of messages in the ring, header included. */
  QMP_TAP_SMALL = 512,
  QMP_TAP_MIDDLE = 4096,
  QMP_TAP_LARGE = 32768,
  QMP_TAP_PIECES = 256, /* Of one system call; what is beyond them is told as skipped. */
  QMP_TAP_GLANCE = 256, /* Bytes taken of a socket that nobody knows yet, unless it speaks JSON. */
  QMP_TAP_HELD = 40,    /* QEMU reads byte by byte: so many may be told of as one piece. */
};

enum qmp_tap_what {
  QMP_TAP_DATA = 1,
  QMP_TAP_SKIPPED = 2, /* `bytes` went by that could not be read. */
  QMP_TAP_CLOSED = 3,  /* The peer closed: QEMU read the end of the stream. */
  QMP_TAP_BLOCKED = 4, /* QEMU has something to send, and the peer does not read. */
  QMP_TAP_EXEC = 5,    /* Process `tgid` became something that is named like a QEMU. */
};

enum qmp_tap_direction {
  QMP_TAP_IN = 0,  /* QEMU received it. */
  QMP_TAP_OUT = 1, /* QEMU sent it. */
};

enum qmp_tap_flag {
  QMP_TAP_KNOWN = 1, /* The socket is registered: `offset` counts. */
  QMP_TAP_FIRST = 2, /* The first piece of a system call. */
};

/* What a socket is. Value of `sockets`, by inode; user space makes the rows, and for
 * a socket that sends a monitor's greeting the probe; it counts in them. */
enum qmp_tap_verdict {
  QMP_TAP_IGNORE = 1,
  QMP_TAP_MONITOR = 2,
};
struct qmp_tap_socket {
  __u32 verdict;  /* An enum qmp_tap_verdict. */
  __u32 held;     /* Bytes of `text`: received, counted in `bytes`, and not yet told of. */
  __u64 bytes[2]; /* By direction: all that went by since the row was made. */
  char text[QMP_TAP_HELD];
};

/* Rows of qmp_tap_stats. */
enum qmp_tap_stat {
  QMP_TAP_STAT_CALLS = 0,        /* Calls on monitors. */
  QMP_TAP_STAT_BYTES = 1,        /* Bytes of monitors that were copied. */
  QMP_TAP_STAT_RING_FULL = 2,    /* Pieces of monitors that did not fit into the ring. */
  QMP_TAP_STAT_UNREAD = 3,       /* Pieces of monitors that could not be read. */
  QMP_TAP_STAT_UNKNOWN = 4,      /* Calls on sockets that nobody knew yet. */
  QMP_TAP_STAT_UNKNOWN_LOST = 5, /* Pieces of those that did not fit into the ring. */
  QMP_TAP_STAT_READ_FAILED = 6,  /* Kernel memory that could not be read. */
  QMP_TAP_STATS = 7,
};

/* What travels through the ring; the data stands behind it. */
struct qmp_tap_event {
  __u64 time_ns; /* When the call was about to end. */
  __u64 ino;     /* Of the socket. */
  __u64 offset;  /* KNOWN: bytes of this direction before this piece. */
  __u32 bytes;   /* DATA: behind the header. SKIPPED: that are missing. */
  __u32 tgid;
  __u32 tid;
  __u32 peer_pid; /* Who connected to a Unix socket, or made the pair; 0: not known. */
  __u32 peer_uid;
  __u16 family;   /* AF_UNIX, AF_INET, … */
  __u8 what;      /* An enum qmp_tap_what. */
  __u8 direction; /* An enum qmp_tap_direction. */
  __u32 flags;    /* enum qmp_tap_flag. */
  __u32 missing;  /* DATA of a socket not registered: bytes behind this piece that were not copied. */
};
