/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Parts that all made-up kernels share. The paddings are arbitrary: only CO-RE's relocations lead to the
 * fields. No #pragma once: each layout is included into a namespace of its own. */

struct kvm_run {
  unsigned char padding[40];
  unsigned int exit_reason;
  union {
    struct {
      unsigned long long hardware_entry_failure_reason;
      unsigned int cpu;
    } fail_entry;
    struct {
      unsigned int suberror;
      unsigned int ndata;
      unsigned long long data[16];
    } internal;
  };
};

struct kvm_vcpu {
  unsigned char padding[72];
  int vcpu_id;
  struct kvm_run* run;
};
