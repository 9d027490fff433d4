/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* The processes that a probe family follows. User space fills the map. */

#include "bpf/include/base.bpf.h"

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 16384);
  __type(key, u32);
  __type(value, u8);
} watched_pids SEC(".maps");

static __always_inline bool watched(u32 tgid) {
  return bpf_map_lookup_elem(&watched_pids, &tgid) != NULL;
}
