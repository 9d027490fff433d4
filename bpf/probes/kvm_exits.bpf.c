/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Why vCPUs leave the guest: counts and times by reason, aggregated here.
 *
 * Everything runs in the vCPU's own thread, so each vCPU's row has one writer and needs neither atomics nor
 * locks. No map is inserted into: a thread finds its row through an array indexed by its id, and takes a free
 * row the first time. An insert into a hash map would take a lock with interrupts off, in the hottest path of
 * KVM. */

#include "bpf/probes/kvm_exits/messages.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* --- bodies: shared by the BTF, raw and classic forms
 * ------------------------------------------------------- */

static __always_inline int vcpu_exit(u64 code) {
  u64 now = bpf_ktime_get_boot_ns();
  u32 slot;
  struct kvm_exits_vcpu* v = this_vcpu(&slot);
  if (!v) return 0;
  v->hits[KVM_EXITS_PROBE_EXIT]++;
  v->exit_ns = now;
  v->user_begin_ns = 0;
  v->user_ns = 0;
  v->last_code = code;
  v->user_code = KVM_EXITS_NO_USER;
  v->address_cell = 0;
  v->user_unclaimed = 0;
  u32 cell = exit_cell(v, code);
  v->exit_cell = cell;
  count(v, cell);
  return 0;
}

static __always_inline int exit_with_vcpu(const struct kvm_vcpu* vcpu, u32 word) {
  u64 code = 0;
  bool ok = false;
  if (!vcpu) return 0;
  if (isa == KVM_EXITS_ISA_VMX)
    ok = vmx_exit_reason(vcpu, &code, word);
  else if (isa == KVM_EXITS_ISA_SVM)
    ok = svm_exit_code(vcpu, &code, word);
  if (!ok) {
    stat_add(KVM_EXITS_STAT_READ_FAILED, 1);
    return 0;
  }
  /* AMD's -1 is stored as 32 or 64 bits; the classic tracepoint shows 32. */
  return vcpu_exit((u32)code);
}

static __always_inline void user_return(struct kvm_exits_vcpu* v, u64 now) {
  u64 ns = now - v->user_begin_ns;
  v->user_begin_ns = 0;
  v->user_ns += ns;
  if (ns >= min_latency_ns) account(v, v->user_cell, ns, ns, log2_bucket(ns));
}

static __always_inline int vcpu_entry(const struct kvm_vcpu* vcpu) {
  u64 now = bpf_ktime_get_boot_ns();
  u32 slot;
  struct kvm_exits_vcpu* v = this_vcpu(&slot);
  if (!v) return 0;
  v->hits[KVM_EXITS_PROBE_ENTRY]++;
  if (vcpu && v->vcpu != (u64)vcpu && bpf_core_field_exists(vcpu->vcpu_id)) {
    int id = -1;
    bpf_core_read(&id, sizeof(id), &vcpu->vcpu_id);
    v->vcpu = (u64)vcpu;
    v->vcpu_id = id;
  }
  /* Where kvm_fpu does not tell when KVM_RUN began again, the entry does, a little late. */
  if (v->user_begin_ns) user_return(v, now);
  v->mmio_pending = 0;
  if (!v->exit_ns) return 0;
  u64 ns = now - v->exit_ns;
  v->exit_ns = 0;
  if (ns < min_latency_ns) return 0;
  u32 bucket = log2_bucket(ns);
  account(v, v->exit_cell, ns, v->user_ns, bucket);
  if (v->address_cell) account(v, v->address_cell, ns, v->user_ns, bucket);
  if (raw_events) push(v, slot, now, ns);
  return 0;
}

static __always_inline int vcpu_to_user(u32 reason, s32 error) {
  u64 now = bpf_ktime_get_boot_ns();
  u32 slot;
  struct kvm_exits_vcpu* v = this_vcpu(&slot);
  if (!v) return 0;
  v->hits[KVM_EXITS_PROBE_USERSPACE]++;
  s32 code = error < 0 ? error : (s32)reason;
  u32 cell = user_cell(v, code);
  v->user_cell = cell;
  v->user_begin_ns = now;
  v->user_code = code;
  if (!v->exit_ns) v->user_ns = 0;
  count(v, cell);
  if (error >= 0 && (reason == EXIT_INTERNAL_ERROR || reason == EXIT_FAIL_ENTRY))
    emit_failure(v, now, reason);
  return 0;
}

/* kvm_fpu(1) is the first tracepoint of a KVM_RUN: QEMU's part ends here. */
static __always_inline int vcpu_fpu(s32 load) {
  if (!load) return 0;
  u64 now = bpf_ktime_get_boot_ns();
  u32 slot;
  struct kvm_exits_vcpu* v = this_vcpu(&slot);
  if (!v) return 0;
  v->hits[KVM_EXITS_PROBE_FPU]++;
  if (!v->user_begin_ns) return 0;
  user_return(v, now);
  if (v->exit_ns) return 0;
  /* No kvm_exit here (PVM, or the probe began in between): the trip to QEMU is all that can be clocked. */
  if (v->address_cell) {
    if (v->user_ns >= min_latency_ns)
      account(v, v->address_cell, v->user_ns, v->user_ns, log2_bucket(v->user_ns));
    v->address_cell = 0;
  } else {
    v->user_unclaimed = 1;
  }
  return 0;
}

static __always_inline void touch(struct kvm_exits_vcpu* v, u32 kind, u64 address, u32 write) {
  u32 cell = address_cell(v, kind, address, write);
  v->address_cell = cell;
  count(v, cell);
  if (v->user_unclaimed && !v->exit_ns) {
    /* A read shows its address after QEMU has answered. */
    if (!write) {
      if (v->user_ns >= min_latency_ns) account(v, cell, v->user_ns, v->user_ns, log2_bucket(v->user_ns));
      v->address_cell = 0;
    }
    v->user_unclaimed = 0;
  }
}

static __always_inline int vcpu_pio(u32 write, u32 port) {
  u32 slot;
  struct kvm_exits_vcpu* v = this_vcpu(&slot);
  if (!v) return 0;
  v->hits[KVM_EXITS_PROBE_PIO]++;
  touch(v, KVM_EXITS_KIND_PIO, port, write != 0);
  return 0;
}

enum { MMIO_READ_UNSATISFIED = 0, MMIO_READ = 1, MMIO_WRITE = 2 };

static __always_inline int vcpu_mmio(s32 type, u64 gpa) {
  u32 slot;
  struct kvm_exits_vcpu* v = this_vcpu(&slot);
  if (!v) return 0;
  v->hits[KVM_EXITS_PROBE_MMIO]++;
  if (type == MMIO_READ && v->mmio_pending) {
    v->mmio_pending = 0;
    return 0;
  }
  touch(v, KVM_EXITS_KIND_MMIO, gpa, type == MMIO_WRITE);
  v->mmio_pending = type == MMIO_READ_UNSATISFIED;
  return 0;
}

/* --- kvm_exit and kvm_entry, in the form the kernel offers
 * ----------------------------------------------------- */

static __always_inline int exit_arguments_of(const u64* ctx, u32 word) {
  if (isa == KVM_EXITS_ISA_ARM64) return vcpu_exit((u32)ctx[0] == 2 ? (u32)ctx[1] : 0x100 + (u32)ctx[0]);
  if (exit_arguments == 3) return vcpu_exit((u32)ctx[0]);
  return exit_with_vcpu((const void*)ctx[0], word);
}

SEC("tp_btf/kvm_exit")
int btf_kvm_exit(u64* ctx) {
  return exit_arguments_of(ctx, 0);
}
SEC("tp_btf/kvm_exit")
int btf_kvm_exit_direct(u64* ctx) {
  return exit_arguments_of(ctx, word_type);
}
SEC("tp_btf/kvm_entry")
int btf_kvm_entry(u64* ctx) {
  return vcpu_entry(isa == KVM_EXITS_ISA_ARM64 ? NULL : (const void*)ctx[0]);
}
SEC("tp_btf/kvm_userspace_exit")
int btf_kvm_userspace_exit(u64* ctx) {
  return vcpu_to_user(ctx[0], ctx[1]);
}
SEC("tp_btf/kvm_fpu")
int btf_kvm_fpu(u64* ctx) {
  return vcpu_fpu(ctx[0]);
}
SEC("tp_btf/kvm_pio")
int btf_kvm_pio(u64* ctx) {
  return vcpu_pio(ctx[0], ctx[1]);
}
SEC("tp_btf/kvm_mmio")
int btf_kvm_mmio(u64* ctx) {
  return vcpu_mmio(ctx[0], ctx[2]);
}

/* The same, driven by bpf_prog_test_run in tests, and used where the kernel has no BTF of kvm. */
SEC("raw_tp/kvm_exit")
int raw_kvm_exit(u64* ctx) {
  return exit_arguments_of(ctx, 0);
}
SEC("raw_tp/kvm_exit")
int raw_kvm_exit_direct(u64* ctx) {
  return exit_arguments_of(ctx, word_type);
}
SEC("raw_tp/kvm_entry")
int raw_kvm_entry(u64* ctx) {
  return vcpu_entry(isa == KVM_EXITS_ISA_ARM64 ? NULL : (const void*)ctx[0]);
}
SEC("raw_tp/kvm_userspace_exit")
int raw_kvm_userspace_exit(u64* ctx) {
  return vcpu_to_user(ctx[0], ctx[1]);
}
SEC("raw_tp/kvm_fpu")
int raw_kvm_fpu(u64* ctx) {
  return vcpu_fpu(ctx[0]);
}
SEC("raw_tp/kvm_pio")
int raw_kvm_pio(u64* ctx) {
  return vcpu_pio(ctx[0], ctx[1]);
}
SEC("raw_tp/kvm_mmio")
int raw_kvm_mmio(u64* ctx) {
  return vcpu_mmio(ctx[0], ctx[2]);
}

/* The classic tracepoint: KVM formats a record first (rip, VMREADs), which costs more than the probe itself.
 */
SEC("tp/kvm/kvm_exit")
int classic_kvm_exit(void* ctx) {
  u32 reason = 0;
  if (bpf_probe_read_kernel(&reason, sizeof(reason), (const char*)ctx + classic_reason_offset) != 0) {
    stat_add(KVM_EXITS_STAT_READ_FAILED, 1);
    return 0;
  }
  return vcpu_exit(reason);
}
