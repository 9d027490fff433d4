/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* What goes through the ring buffer: raw events, and exits that end a VM. */

#include "bpf/probes/kvm_exits/cells.bpf.h"

static __always_inline void batch_of(struct kvm_exits_batch* batch, struct kvm_exits_vcpu* v, u32 message,
                                     u32 events) {
  batch->message = message;
  batch->count = events;
  batch->tgid = v->pid_tgid >> 32;
  batch->tid = v->pid_tgid;
  batch->vcpu_id = v->vcpu_id;
}

/* Raw events travel in batches: one reservation and at most one wake-up for many. */
static __always_inline void push(struct kvm_exits_vcpu* v, u32 slot, u64 now, u64 ns) {
  struct kvm_exits_batch* batch = bpf_map_lookup_elem(&batches, &slot);
  if (!batch) return;
  u32 at = batch->count;
  opaque(at);
  if (at >= KVM_EXITS_BATCH) at = 0;
  struct kvm_exits_event* event = &batch->events[at];
  struct kvm_exits_cell* touched = v->address_cell ? cell_at(v, v->address_cell) : NULL;
  event->time_ns = now - ns;
  event->duration_ns = ns;
  event->qemu_ns = v->user_ns;
  event->address = touched ? touched->code : KVM_EXITS_NO_ADDRESS;
  event->code = v->last_code;
  event->user_code = v->user_code;
  batch->count = at + 1;
  if (at + 1 < KVM_EXITS_BATCH && now - batch->events[0].time_ns < batch_age_ns) return;
  batch_of(batch, v, KVM_EXITS_MESSAGE_EVENTS, at + 1);
  emit(batch, KVM_EXITS_BATCH_HEADER + (at + 1) * sizeof(struct kvm_exits_event), KVM_EXITS_STAT_RING_FULL,
       at + 1, 0);
  batch->count = 0;
}

enum { EXIT_FAIL_ENTRY = 9, EXIT_INTERNAL_ERROR = 17 };

static __noinline int emit_failure(struct kvm_exits_vcpu* v, u64 now, s32 reason) {
  struct {
    u32 message, count, tgid, tid;
    s32 vcpu_id;
    u32 reserved;
    struct kvm_exits_event event;
  } one = {};
  if (!v) return 0;
  const struct kvm_vcpu* vcpu = (const void*)v->vcpu;
  u64 detail = KVM_EXITS_NO_ADDRESS;
  if (vcpu && bpf_core_field_exists(vcpu->run)) {
    struct kvm_run* run = NULL;
    bpf_core_read(&run, sizeof(run), &vcpu->run);
    if (run && reason == EXIT_INTERNAL_ERROR && bpf_core_field_exists(run->internal.suberror)) {
      u32 suberror = 0;
      if (bpf_core_read(&suberror, sizeof(suberror), &run->internal.suberror) == 0) detail = suberror;
    } else if (run && reason == EXIT_FAIL_ENTRY && bpf_core_field_exists(run->fail_entry)) {
      bpf_core_read(&detail, sizeof(detail), &run->fail_entry.hardware_entry_failure_reason);
    }
  }
  one.message = KVM_EXITS_MESSAGE_FAILURE;
  one.count = 1;
  one.tgid = v->pid_tgid >> 32;
  one.tid = v->pid_tgid;
  one.vcpu_id = v->vcpu_id;
  one.event.time_ns = now;
  one.event.address = detail;
  one.event.code = v->last_code;
  one.event.user_code = reason;
  emit(&one, sizeof(one), KVM_EXITS_STAT_RING_FULL, 1, BPF_RB_FORCE_WAKEUP);
  return 0;
}
