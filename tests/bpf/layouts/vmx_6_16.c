/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Its BTF stands in for a kernel's: see layouts.hpp. */
#include "vmx_6_16.h"

struct vcpu_vmx layout;
/* A struct that is only pointed to would be in BTF by its name alone. */
struct kvm_run run;
