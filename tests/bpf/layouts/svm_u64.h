/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* AMD with one 64-bit exit code. */
#include "common.h"

struct vmcb_control_area {
  unsigned int intercepts[28];
  unsigned long long exit_code;
};
struct vmcb {
  struct vmcb_control_area control;
};
struct vcpu_svm {
  struct kvm_vcpu vcpu;
  unsigned long long padding;
  struct vmcb* vmcb;
};
