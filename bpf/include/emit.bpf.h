/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* Hands bytes to user space through a family's ring buffer. A ring that is full never blocks: what did not
 * fit is counted in the family's stats. STATS_MAP stands before RING_MAP. */

#include "bpf/include/stats.bpf.h"

/* The size is a placeholder: the loader sets it. */
#define RING_MAP(family)                                                                            \
  struct {                                                                                          \
    __uint(type, BPF_MAP_TYPE_RINGBUF);                                                             \
    __uint(max_entries, 4096);                                                                      \
  } family##_ring SEC(".maps");                                                                     \
  /* `records`: how many records `data` carries, for the loss counter. */                           \
  static __always_inline __attribute__((unused)) bool emit(void* data, u64 bytes, u32 lost_counter, \
                                                           u64 records, u64 flags) {                \
    if (bpf_ringbuf_output(&family##_ring, data, bytes, flags) == 0) return true;                   \
    stat_add(lost_counter, records);                                                                \
    return false;                                                                                   \
  }
