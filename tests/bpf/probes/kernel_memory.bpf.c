/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Memory that a test writes and the kernel can read: stands in for a struct kvm_vcpu. */

#include "bpf/include/base.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

char memory[4096] __attribute__((aligned(64)));
__u64 address;
__u64 now;

SEC("raw_tp/sched_switch")
int tell_address(void* ctx) {
  address = (u64)memory;
  return 0;
}

/* What any program costs, and what reading the clock adds: the benchmark's yardsticks. */
SEC("raw_tp/sched_switch")
int do_nothing(void* ctx) {
  return 0;
}

SEC("raw_tp/sched_switch")
int read_clock(void* ctx) {
  now = bpf_ktime_get_boot_ns();
  return 0;
}
