/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Intel as of Linux 5.12 to 6.15. */
#include "common.h"

union vmx_exit_reason {
  struct {
    unsigned int basic : 16;
    unsigned int reserved : 15;
    unsigned int failed_vmentry : 1;
  };
  unsigned int full;
};
struct vcpu_vmx {
  struct kvm_vcpu vcpu;
  unsigned char fail;
  union vmx_exit_reason exit_reason;
};
