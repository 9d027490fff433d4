/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* The kernel's structs as far as probes read them. CO-RE finds the real offsets when a program is loaded, so
 * only names and types matter here. Where kernels differ there is one flavour (___suffix) for each form, with
 * the commit that changed it. Every type or field that may be missing is tested before it is read. */

#include "bpf/include/base.bpf.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kvm_run {
  u32 exit_reason;
  union {
    struct {
      u64 hardware_entry_failure_reason;
      u32 cpu;
    } fail_entry;
    struct {
      u32 suberror;
      u32 ndata;
      u64 data[16];
    } internal;
  };
};

struct kvm_vcpu {
  int vcpu_id;
  struct kvm_run* run;
};

/* Intel. exit_reason is a union since "KVM: VMX: Convert vcpu_vmx.exit_reason to a
 * union" (5.12): full is all of it, with the failed-entry bit.
 */
union vmx_exit_reason {
  u32 full;
};
struct vcpu_vmx {
  union vmx_exit_reason exit_reason;
};
/* 7172c753c26a (6.16) moved it into a part that VMX and TDX share. */
struct vcpu_vt___v6_16 {
  union vmx_exit_reason exit_reason;
};
struct vcpu_vmx___v6_16 {
  struct vcpu_vt___v6_16 vt;
};

/* AMD. exit_code was u32 with exit_code_hi behind it; newer kernels have one u64. Its width is asked, not
 * assumed. */
struct vmcb_control_area {
  u32 exit_code;
};
struct vmcb {
  struct vmcb_control_area control;
};
struct vcpu_svm {
  struct vmcb* vmcb;
};

#pragma clang attribute pop

/* What KVM cached of the last exit. Both vendors embed kvm_vcpu at the beginning of their own struct.
 * @return false where the running kernel has no such type, or the read failed. */
static __always_inline bool vmx_exit_reason(const void* vcpu, u32* reason) {
  const struct vcpu_vmx___v6_16* vt = vcpu;
  const struct vcpu_vmx* vmx = vcpu;
  if (bpf_core_field_exists(vt->vt.exit_reason.full))
    return bpf_core_read(reason, sizeof(*reason), &vt->vt.exit_reason.full) == 0;
  if (bpf_core_field_exists(vmx->exit_reason.full))
    return bpf_core_read(reason, sizeof(*reason), &vmx->exit_reason.full) == 0;
  return false;
}

static __always_inline bool svm_exit_code(const void* vcpu, u64* code) {
  const struct vcpu_svm* svm = vcpu;
  struct vmcb* vmcb = NULL;
  if (!bpf_core_field_exists(svm->vmcb) || !bpf_core_field_exists(vmcb->control.exit_code)) return false;
  if (bpf_core_read(&vmcb, sizeof(vmcb), &svm->vmcb) != 0 || !vmcb) return false;
  u64 value = 0;
  u64 width = bpf_core_field_size(vmcb->control.exit_code);
  if (width > sizeof(value)) return false;
  if (bpf_core_read(&value, width, &vmcb->control.exit_code) != 0) return false;
  *code = value;
  return true;
}
