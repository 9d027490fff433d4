/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Why vCPUs leave the guest: counts and times by reason, aggregated here.
 *
 * Everything runs in the vCPU's own thread, so each vCPU's row has one writer and needs neither atomics nor
 * locks. No map is inserted into: a thread finds its row through an array indexed by its id, and takes a free
 * row the first time. An insert into a hash map would take a lock with interrupts off, in the hottest path of
 * KVM. */

#include "bpf/include/kvm_exits.h"
#include "bpf/include/emit.bpf.h"
#include "bpf/include/kernel.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Options: fixed before load, so that what is not asked for is not even verified. The skeleton shows globals
 * to C++, hence UAPI types. */
const volatile __u32 isa; /* An enum kvm_exits_isa. */
const volatile __u32
    exit_arguments; /* kvm_exit's: 2 (vcpu, isa), or 3 (reason, vcpu, isa) before 0a62a0319abb (5.16). */
const volatile __u8 watch_all;
const volatile __u8 raw_events;
const volatile __u64 min_latency_ns;
const volatile __u32 max_vcpus = 1;
const volatile __u32 classic_reason_offset; /* Of exit_reason in the record of the classic tracepoint. */
const volatile __u32 word_type; /* As read_word wants it. 0: programs that need it are not loaded. */
const volatile __u32 batch_age_ns = 100000000;

__u32 vcpus_used;

STATS_MAP(kvm_exits, KVM_EXITS_STATS)
RING_MAP(kvm_exits)

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __uint(map_flags, BPF_F_MMAPABLE);
  __type(key, u32);
  __type(value, struct kvm_exits_vcpu);
} vcpus SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, u32);
  __type(value, struct kvm_exits_batch);
} batches SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, u32);
  __type(value, struct kvm_exits_tids);
} slot_by_tid SEC(".maps");

/* Filled by user space before anything is attached. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 4096);
  __type(key, u32);
  __type(value, u8);
} watched_pids SEC(".maps");

/* A thread's first event, or the first after its id was used again. */
static __noinline struct kvm_exits_vcpu* adopt(u64 pid_tgid, struct kvm_exits_tids* page) {
  u32 tgid = pid_tgid >> 32;
  if (!page) return NULL;
  if (!watch_all && !bpf_map_lookup_elem(&watched_pids, &tgid)) {
    stat_add(KVM_EXITS_STAT_NOT_WATCHED, 1);
    return NULL;
  }
  u32 slot = vcpus_used;
  if (slot < max_vcpus) slot = __sync_fetch_and_add(&vcpus_used, 1);
  struct kvm_exits_vcpu* v = slot < max_vcpus ? bpf_map_lookup_elem(&vcpus, &slot) : NULL;
  if (!v) {
    stat_add(KVM_EXITS_STAT_VCPUS_FULL, 1);
    return NULL;
  }
  v->vcpu_id = -1;
  v->user_code = KVM_EXITS_NO_USER;
  v->pid_tgid = pid_tgid;
  page->slot[(u32)pid_tgid % KVM_EXITS_PAGE_TIDS] = slot + 1;
  return v;
}

static __always_inline struct kvm_exits_vcpu* this_vcpu(u32* slot) {
  u64 pid_tgid = bpf_get_current_pid_tgid();
  u32 tid = pid_tgid;
  u32 page_index = tid / KVM_EXITS_PAGE_TIDS;
  struct kvm_exits_tids* page = bpf_map_lookup_elem(&slot_by_tid, &page_index);
  if (!page) {
    stat_add(KVM_EXITS_STAT_TID_UNKNOWN, 1);
    return NULL;
  }
  u32 found = page->slot[tid % KVM_EXITS_PAGE_TIDS];
  if (found) {
    *slot = found - 1;
    struct kvm_exits_vcpu* v = bpf_map_lookup_elem(&vcpus, slot);
    if (v && v->pid_tgid == pid_tgid) return v;
  }
  struct kvm_exits_vcpu* v = adopt(pid_tgid, page);
  *slot = page->slot[tid % KVM_EXITS_PAGE_TIDS] - 1;
  return v;
}

static __always_inline struct kvm_exits_cell* cell_at(struct kvm_exits_vcpu* v, u32 index_plus_1) {
  if (!index_plus_1) return NULL;
  /* Masked, not compared: the verifier sees the bound on the very register that is used. */
  u64 index = index_plus_1 - 1;
  opaque(index);
  return &v->cells[index & (KVM_EXITS_CELLS - 1)];
}

/* @return index + 1 of a fresh cell, or 0 where all are taken. */
static __noinline u32 new_cell(struct kvm_exits_vcpu* v, u32 kind, u64 code, u32 detail) {
  if (!v) return 0;
  u32 index = v->cells_used;
  if (index >= KVM_EXITS_CELLS) {
    stat_add(KVM_EXITS_STAT_CELLS_FULL, 1);
    return 0;
  }
  struct kvm_exits_cell* cell = &v->cells[index];
  cell->kind = kind;
  cell->code = code;
  cell->detail = detail;
  v->cells_used = index + 1;
  return index + 1;
}

/* For codes that no index leads to: AMD's 0x400 and up, failed entries, errnos. Walks the vCPU's cells. */
static __noinline u32 search_cell(struct kvm_exits_vcpu* v, u32 kind, u64 code) {
  if (!v) return 0;
  for (u32 i = 0; i < KVM_EXITS_CELLS; i++) {
    if (i >= v->cells_used) break;
    if (v->cells[i].kind == kind && v->cells[i].code == code) return i + 1;
  }
  return new_cell(v, kind, code, 0);
}

static __always_inline u32 exit_cell(struct kvm_exits_vcpu* v, u64 code) {
  /* Nested page faults are AMD's most frequent exits: they get indexes that no exit code has (0xf0 to 0xf3).
   */
  u64 index = code;
  if (isa == KVM_EXITS_ISA_SVM && (code & ~3ull) == 0x400)
    index = 0xf0 | (code & 3);
  else if (code >= 0xf0)
    return search_cell(v, KVM_EXITS_KIND_KVM, code);
  u32 cell = v->direct[index & (KVM_EXITS_DIRECT - 1)];
  if (!cell) {
    cell = new_cell(v, KVM_EXITS_KIND_KVM, code, 0);
    v->direct[index & (KVM_EXITS_DIRECT - 1)] = cell;
  }
  return cell;
}

static __always_inline u32 user_cell(struct kvm_exits_vcpu* v, s32 code) {
  if (code < 0 || code >= KVM_EXITS_USER_DIRECT)
    return search_cell(v, KVM_EXITS_KIND_USERSPACE, (u64)(long long)code);
  u32 cell = v->user_direct[code & (KVM_EXITS_USER_DIRECT - 1)];
  if (!cell) {
    cell = new_cell(v, KVM_EXITS_KIND_USERSPACE, code, 0);
    v->user_direct[code & (KVM_EXITS_USER_DIRECT - 1)] = cell;
  }
  return cell;
}

/* Open addressing with eight probes. An address that finds no place is not listed; its exit is counted all
 * the same. */
static __noinline u32 address_cell(struct kvm_exits_vcpu* v, u32 kind, u64 address, u32 write) {
  if (!v) return 0;
  u32 hash = ((u32)(address ^ address >> 12 ^ address >> 32) * 2 + write) * 0x9e3779b1u + kind;
  for (u32 i = 0; i < 8; i++) {
    u32 place = ((hash >> 16) + i) & (KVM_EXITS_ADDRESSES - 1);
    u32 found = v->addresses[place];
    if (!found) {
      if (v->address_cells >= KVM_EXITS_ADDRESS_CELLS) break;
      v->address_cells++;
      found = new_cell(v, kind, address, write);
      v->addresses[place] = found;
      return found;
    }
    struct kvm_exits_cell* cell = cell_at(v, found);
    if (cell && cell->kind == kind && cell->code == address && cell->detail == write) return found;
  }
  stat_add(KVM_EXITS_STAT_ADDRESSES_FULL, 1);
  return 0;
}

/* Halves the range by branches: shifts by what a comparison gave take three times as many instructions. */
static __always_inline u32 log2_bucket(u64 ns) {
  if (ns >> 32) {
    u32 high = ns >> 32;
    if (high >> 3) return KVM_EXITS_BUCKETS - 1;
    if (high >> 2) return 34;
    return high >> 1 ? 33 : 32;
  }
  u32 value = ns, bucket = 0;
#define HALVE(bits)    \
  if (value >> bits) { \
    value >>= bits;    \
    bucket += bits;    \
    opaque(value);     \
  }
  HALVE(16)
  HALVE(8)
  HALVE(4)
  HALVE(2)
#undef HALVE
  return bucket + (value >> 1);
}

static __always_inline void count(struct kvm_exits_vcpu* v, u32 index) {
  struct kvm_exits_cell* cell = cell_at(v, index);
  /* With a threshold only what is known to have lasted is counted: in account(). */
  if (cell && !min_latency_ns) cell->count++;
}

/* @param bucket log2_bucket(ns). */
static __always_inline void account(struct kvm_exits_vcpu* v, u32 index, u64 ns, u64 qemu_ns, u32 bucket) {
  struct kvm_exits_cell* cell = cell_at(v, index);
  if (!cell) return;
  if (min_latency_ns) cell->count++;
  cell->timed++;
  cell->total_ns += ns;
  cell->qemu_ns += qemu_ns;
  if (ns > cell->max_ns) cell->max_ns = ns;
  opaque(bucket);
  if (bucket < KVM_EXITS_BUCKETS) cell->log2_ns[bucket]++;
}

static __always_inline void batch_of(struct kvm_exits_batch* batch, struct kvm_exits_vcpu* v, u32 message,
                                     u32 events) {
  batch->message = message;
  batch->count = events;
  batch->tgid = v->pid_tgid >> 32;
  batch->tid = v->pid_tgid;
  batch->vcpu_id = v->vcpu_id;
}

/* Raw events travel in batches: one reservation and at most one wake-up for many. */
static __always_inline void push(struct kvm_exits_vcpu* v, u32 slot, u64 now, u64 ns) {
  struct kvm_exits_batch* batch = bpf_map_lookup_elem(&batches, &slot);
  if (!batch) return;
  u32 at = batch->count;
  opaque(at);
  if (at >= KVM_EXITS_BATCH) at = 0;
  struct kvm_exits_event* event = &batch->events[at];
  struct kvm_exits_cell* touched = v->address_cell ? cell_at(v, v->address_cell) : NULL;
  event->time_ns = now - ns;
  event->duration_ns = ns;
  event->qemu_ns = v->user_ns;
  event->address = touched ? touched->code : KVM_EXITS_NO_ADDRESS;
  event->code = v->last_code;
  event->user_code = v->user_code;
  batch->count = at + 1;
  if (at + 1 < KVM_EXITS_BATCH && now - batch->events[0].time_ns < batch_age_ns) return;
  batch_of(batch, v, KVM_EXITS_MESSAGE_EVENTS, at + 1);
  emit(batch, KVM_EXITS_BATCH_HEADER + (at + 1) * sizeof(struct kvm_exits_event), KVM_EXITS_STAT_RING_FULL,
       at + 1, 0);
  batch->count = 0;
}

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

enum { EXIT_FAIL_ENTRY = 9, EXIT_INTERNAL_ERROR = 17 };

static __noinline int emit_failure(struct kvm_exits_vcpu* v, u64 now, s32 reason) {
  struct {
    u32 message, count, tgid, tid;
    s32 vcpu_id;
    u32 reserved;
    struct kvm_exits_event event;
  } one = {};
  if (!v) return 0;
  const struct kvm_vcpu* vcpu = (const void*)v->vcpu;
  u64 detail = KVM_EXITS_NO_ADDRESS;
  if (vcpu && bpf_core_field_exists(vcpu->run)) {
    struct kvm_run* run = NULL;
    bpf_core_read(&run, sizeof(run), &vcpu->run);
    if (run && reason == EXIT_INTERNAL_ERROR && bpf_core_field_exists(run->internal.suberror)) {
      u32 suberror = 0;
      if (bpf_core_read(&suberror, sizeof(suberror), &run->internal.suberror) == 0) detail = suberror;
    } else if (run && reason == EXIT_FAIL_ENTRY && bpf_core_field_exists(run->fail_entry)) {
      bpf_core_read(&detail, sizeof(detail), &run->fail_entry.hardware_entry_failure_reason);
    }
  }
  one.message = KVM_EXITS_MESSAGE_FAILURE;
  one.count = 1;
  one.tgid = v->pid_tgid >> 32;
  one.tid = v->pid_tgid;
  one.vcpu_id = v->vcpu_id;
  one.event.time_ns = now;
  one.event.address = detail;
  one.event.code = v->last_code;
  one.event.user_code = reason;
  emit(&one, sizeof(one), KVM_EXITS_STAT_RING_FULL, 1, BPF_RB_FORCE_WAKEUP);
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
