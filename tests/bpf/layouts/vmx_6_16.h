/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Intel since Linux 6.16: what VMX and TDX share stands in a struct of its own. */
#include "common.h"

union vmx_exit_reason {
  unsigned int full;
};
struct vcpu_vt {
  unsigned char padding[24];
  union vmx_exit_reason exit_reason;
};
struct vcpu_vmx {
  struct kvm_vcpu vcpu;
  struct vcpu_vt vt;
};
