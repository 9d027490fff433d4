/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* AMD with the exit code in two halves. */
#include "common.h"

struct vmcb_control_area {
  unsigned int intercepts[28];
  unsigned int exit_code;
  unsigned int exit_code_hi;
};
struct vmcb {
  struct vmcb_control_area control;
};
struct vcpu_svm {
  struct kvm_vcpu vcpu;
  struct vmcb* vmcb;
};
