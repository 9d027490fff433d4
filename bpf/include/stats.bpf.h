/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* Named counters of a family, one row for each CPU: no atomics, no locks. The names stand in the family's
 * shared header as an enum; user space sums the CPUs. Every failed reserve, lookup and read must count one.
 */

#include "bpf/include/base.bpf.h"

#define STATS_MAP(family, counters)                              \
  struct {                                                       \
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                     \
    __uint(max_entries, counters);                               \
    __type(key, u32);                                            \
    __type(value, u64);                                          \
  } family##_stats SEC(".maps");                                 \
  static __always_inline void stat_add(u32 counter, u64 n) {     \
    u64* value = bpf_map_lookup_elem(&family##_stats, &counter); \
    if (value) *value += n;                                      \
  }
