/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Its BTF stands in for a kernel's: see layouts.hpp. */
#include "svm_u64.h"

struct vcpu_svm layout;
/* A struct that is only pointed to would be in BTF by its name alone. */
struct kvm_run run;
struct vmcb vmcb;
