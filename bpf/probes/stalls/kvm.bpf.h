/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* What KVM tells of a vCPU, in the vCPU's own thread. */

#include "bpf/probes/stalls/switches.bpf.h"

static __always_inline int enter_phase(struct stalls_thread* t, u32 phase) {
  t->phase = phase;
  return move(t, bpf_ktime_get_boot_ns(), on_cpu_state(t));
}

static __always_inline int on_kvm_entry(const struct kvm_vcpu* vcpu) {
  struct stalls_thread* t = this_thread();
  if (!t) return 0;
  hit(STALLS_PROBE_KVM_ENTRY);
  if (t->good != kvm_good) {
    t->good = kvm_good;
    t->threshold_ns = vcpu_threshold_ns;
    if (isa != 3 && vcpu && bpf_core_field_exists(vcpu->vcpu_id))
      bpf_core_read(&t->vcpu_id, sizeof(t->vcpu_id), &vcpu->vcpu_id);
  }
  return enter_phase(t, STALLS_GUEST);
}

static __always_inline int on_kvm_exit(u64* ctx) {
  struct stalls_thread* t = this_thread();
  if (!t) return 0;
  hit(STALLS_PROBE_KVM_EXIT);
  u32 code = 0;
  if (isa == 3) {
    code = (u32)ctx[0] == 2 ? (u32)ctx[1] : 0x100 + (u32)ctx[0];
  } else if (exit_arguments == 3) {
    code = ctx[0];
  } else {
    const void* vcpu = (const void*)ctx[0];
    bool ok = false;
    if (!vcpu) return 0;
    u64 wide = 0;
    if (isa == 1)
      ok = vmx_exit_reason(vcpu, &wide, 0);
    else if (isa == 2)
      ok = svm_exit_code(vcpu, &wide, 0);
    code = wide;
    if (!ok) stat_add(STALLS_STAT_READ_FAILED, 1);
  }
  enter_phase(t, STALLS_KVM);
  t->stall.exit_code = code;
  return 0;
}

static __always_inline int on_kvm_userspace(u32 reason, s32 error) {
  struct stalls_thread* t = this_thread();
  if (!t) return 0;
  hit(STALLS_PROBE_KVM_USERSPACE);
  enter_phase(t, STALLS_QEMU);
  t->stall.user_code = error < 0 ? 63 : (s32)reason;
  return 0;
}

/* The first tracepoint of a KVM_RUN. */
static __always_inline int on_kvm_fpu(u32 load) {
  if (!load) return 0;
  struct stalls_thread* t = this_thread();
  if (!t) return 0;
  hit(STALLS_PROBE_KVM_FPU);
  return enter_phase(t, guest_entries ? STALLS_KVM : STALLS_RUNNING);
}

/* Tells afterwards how long KVM polled, so the end of what was taken for KVM becomes polling. */
static __always_inline int on_kvm_wakeup(u64 ns, bool waited) {
  struct stalls_thread* t = this_thread();
  if (!t) return 0;
  hit(STALLS_PROBE_KVM_WAKEUP);
  if (waited || t->state != STALLS_KVM) return 0;
  u64 now = bpf_ktime_get_boot_ns();
  u64 begin = now > ns ? now - ns : now;
  if (begin < t->since_ns) begin = t->since_ns;
  move(t, begin, STALLS_HALT_POLL);
  return move(t, now, STALLS_KVM);
}
