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

/* Since 6.2. A pointer that went through it may be read by one instruction instead of a helper's call; where
 * the address is not mapped that gives 0. Kernels before 5.16 load no program that so much as names a
 * function they lack: programs that use it are apart. */
extern void* bpf_rdonly_cast(const void* object, u32 btf_id) __ksym __weak;
struct kernel_word {
  u64 value;
};

/* Reads `width` (4 or 8) bytes of the kernel's memory at `from`.
 * @param word_type 0: by copying. Otherwise a constant, the id of a struct of vmlinux that begins with 64
 * bits, which is all that the verifier wants to know of what is read. */
static __always_inline bool read_word(u64* word, u64 width, const void* from, u32 word_type) {
  if (!word_type) {
    *word = 0;
    return bpf_probe_read_kernel(word, width, from) == 0;
  }
  u64 value = ((const struct kernel_word*)bpf_rdonly_cast(from, word_type))->value;
  *word = width == 4 ? (u32)value : value;
  return true;
}

/* What KVM cached of the last exit. Both vendors embed kvm_vcpu at the beginning of their own struct.
 * @return false where the running kernel has no such type, or the read failed. */
static __always_inline bool vmx_exit_reason(const void* vcpu, u64* reason, u32 word_type) {
  const struct vcpu_vmx___v6_16* vt = vcpu;
  const struct vcpu_vmx* vmx = vcpu;
  const u64 width = sizeof(vmx->exit_reason.full);
  if (bpf_core_field_exists(vt->vt.exit_reason.full))
    return read_word(reason, width, __builtin_preserve_access_index(&vt->vt.exit_reason.full), word_type);
  if (bpf_core_field_exists(vmx->exit_reason.full))
    return read_word(reason, width, __builtin_preserve_access_index(&vmx->exit_reason.full), word_type);
  return false;
}

static __always_inline bool svm_exit_code(const void* vcpu, u64* code, u32 word_type) {
  const struct vcpu_svm* svm = vcpu;
  u64 vmcb_at = 0;
  if (!bpf_core_field_exists(svm->vmcb)) return false;
  if (!read_word(&vmcb_at, sizeof(vmcb_at), __builtin_preserve_access_index(&svm->vmcb), word_type) ||
      !vmcb_at)
    return false;
  const struct vmcb* vmcb = (const void*)vmcb_at;
  if (!bpf_core_field_exists(vmcb->control.exit_code)) return false;
  u64 width = bpf_core_field_size(vmcb->control.exit_code);
  if (width > sizeof(*code)) return false;
  return read_word(code, width, __builtin_preserve_access_index(&vmcb->control.exit_code), word_type);
}
