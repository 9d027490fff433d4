/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* The options, the maps, and the row of each vCPU. */

#include "bpf/include/emit.bpf.h"
#include "bpf/include/kernel.bpf.h"
#include "bpf/include/kvm_exits.h"

/* Options: fixed before load, so that what is not asked for is not even verified. The skeleton shows globals
 * to C++, hence UAPI types. */
const volatile __u32 isa; /* An enum kvm_exits_isa. */
const volatile __u32
    exit_arguments; /* kvm_exit's: 2 (vcpu, isa), or 3 (reason, vcpu, isa) before 0a62a0319abb (5.16). */
const volatile __u8 watch_all;
const volatile __u8 raw_events;
const volatile __u64 min_latency_ns;
const volatile __u32 max_vcpus = 1;
const volatile __u32 classic_reason_offset; /* Of exit_reason in the record of the classic tracepoint. */
const volatile __u32 word_type; /* As read_word wants it. 0: programs that need it are not loaded. */
const volatile __u32 batch_age_ns = 100000000;

__u32 vcpus_used;

STATS_MAP(kvm_exits, KVM_EXITS_STATS)
RING_MAP(kvm_exits)

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, u32);
  __type(value, struct kvm_exits_vcpu);
} vcpus SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, u32);
  __type(value, struct kvm_exits_batch);
} batches SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, u32);
  __type(value, struct kvm_exits_tids);
} slot_by_tid SEC(".maps");

/* Filled by user space before anything is attached. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 4096);
  __type(key, u32);
  __type(value, u8);
} watched_pids SEC(".maps");

/* A thread's first event, or the first after its id was used again. */
static __noinline struct kvm_exits_vcpu* adopt(u64 pid_tgid, struct kvm_exits_tids* page) {
  u32 tgid = pid_tgid >> 32;
  if (!page) return NULL;
  if (!watch_all && !bpf_map_lookup_elem(&watched_pids, &tgid)) {
    stat_add(KVM_EXITS_STAT_NOT_WATCHED, 1);
    return NULL;
  }
  u32 slot = vcpus_used;
  if (slot < max_vcpus) slot = __sync_fetch_and_add(&vcpus_used, 1);
  struct kvm_exits_vcpu* v = slot < max_vcpus ? bpf_map_lookup_elem(&vcpus, &slot) : NULL;
  if (!v) {
    stat_add(KVM_EXITS_STAT_VCPUS_FULL, 1);
    return NULL;
  }
  v->vcpu_id = -1;
  v->user_code = KVM_EXITS_NO_USER;
  v->pid_tgid = pid_tgid;
  page->slot[(u32)pid_tgid % KVM_EXITS_PAGE_TIDS] = slot + 1;
  return v;
}

static __always_inline struct kvm_exits_vcpu* this_vcpu(u32* slot) {
  u64 pid_tgid = bpf_get_current_pid_tgid();
  u32 tid = pid_tgid;
  u32 page_index = tid / KVM_EXITS_PAGE_TIDS;
  struct kvm_exits_tids* page = bpf_map_lookup_elem(&slot_by_tid, &page_index);
  if (!page) {
    stat_add(KVM_EXITS_STAT_TID_UNKNOWN, 1);
    return NULL;
  }
  u32 found = page->slot[tid % KVM_EXITS_PAGE_TIDS];
  if (found) {
    *slot = found - 1;
    struct kvm_exits_vcpu* v = bpf_map_lookup_elem(&vcpus, slot);
    if (v && v->pid_tgid == pid_tgid) return v;
  }
  struct kvm_exits_vcpu* v = adopt(pid_tgid, page);
  *slot = page->slot[tid % KVM_EXITS_PAGE_TIDS] - 1;
  return v;
}
