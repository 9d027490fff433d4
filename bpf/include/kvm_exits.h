/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* What the probe family kvm_exits and user space share. Valid C11 and C++20. All times are nanoseconds of
 * CLOCK_BOOTTIME or durations. */

#include <linux/types.h>

enum {
  KVM_EXITS_CELLS = 128,  /* Different (kind, code) of one vCPU, a power of two; more are counted as lost. */
  KVM_EXITS_BUCKETS = 36, /* Bucket i counts [2^i, 2^(i+1)) ns; the last one everything above: 34 s. */
  KVM_EXITS_DIRECT = 256, /* Exit codes below this find their cell by index. */
  KVM_EXITS_USER_DIRECT = 64,   /* KVM_EXIT_* below this too. */
  KVM_EXITS_ADDRESSES = 256,    /* Hash slots for addresses; a power of two. */
  KVM_EXITS_ADDRESS_CELLS = 80, /* At most so many cells hold addresses: reasons must find room. */
  KVM_EXITS_PAGE_TIDS = 1024,   /* Thread ids of one page of the table from thread to slot. */
  KVM_EXITS_BATCH = 64,         /* Raw events that one ring buffer message carries. */
};

enum kvm_exits_kind {
  KVM_EXITS_KIND_KVM = 0,       /* code: the hardware's exit reason. */
  KVM_EXITS_KIND_USERSPACE = 1, /* code: KVM_EXIT_*, or minus errno where KVM_RUN failed. */
  KVM_EXITS_KIND_PIO = 2,       /* code: the port. */
  KVM_EXITS_KIND_MMIO = 3,      /* code: the guest physical address. */
};

enum kvm_exits_probe {
  KVM_EXITS_PROBE_EXIT = 0,
  KVM_EXITS_PROBE_ENTRY = 1,
  KVM_EXITS_PROBE_USERSPACE = 2,
  KVM_EXITS_PROBE_FPU = 3,
  KVM_EXITS_PROBE_PIO = 4,
  KVM_EXITS_PROBE_MMIO = 5,
  KVM_EXITS_PROBES = 6,
};

/* Rows of kvm_exits_stats. All but NOT_WATCHED and ADDRESSES_FULL say that events are missing from the
 * result. */
enum kvm_exits_stat {
  KVM_EXITS_STAT_NOT_WATCHED = 0, /* Events of processes that were not asked for. */
  KVM_EXITS_STAT_VCPUS_FULL = 1,  /* Events of vCPUs beyond the table. */
  KVM_EXITS_STAT_CELLS_FULL = 2,  /* Events whose (kind, code) found no cell. */
  KVM_EXITS_STAT_READ_FAILED = 3, /* kvm_exit whose reason could not be read. */
  KVM_EXITS_STAT_RING_FULL = 4,   /* Raw events that did not fit into the ring. */
  KVM_EXITS_STAT_TID_UNKNOWN = 5, /* Events of thread ids above the table. */
  KVM_EXITS_STAT_ADDRESSES_FULL =
      6, /* Accesses to addresses beyond the table: counted under their exit alone. */
  KVM_EXITS_STATS = 7,
};

enum kvm_exits_isa {
  KVM_EXITS_ISA_UNKNOWN = 0,
  KVM_EXITS_ISA_VMX = 1, /* As KVM_ISA_VMX. */
  KVM_EXITS_ISA_SVM = 2, /* As KVM_ISA_SVM. */
  KVM_EXITS_ISA_ARM64 = 3,
  KVM_EXITS_ISA_PVM = 4, /* kvm_exit does not fire there. */
};

struct kvm_exits_cell {
  __u64 code;
  __u32 kind;   /* An enum kvm_exits_kind. */
  __u32 detail; /* Addresses: 1 for a write, 0 for a read. */
  __u64 count;
  __u64 timed;    /* How many of them have a duration: those that were seen to end. */
  __u64 total_ns; /* kvm: exit to next entry. userspace: time outside KVM_RUN. Addresses: as the exit they
                     belong to. */
  __u64 max_ns;
  __u64 qemu_ns; /* The part of total_ns that was spent in QEMU. */
  __u32 log2_ns[KVM_EXITS_BUCKETS];
};

/* One vCPU. Only the vCPU's own thread writes it, so nothing in here is atomic. */
struct kvm_exits_vcpu {
  __u64 pid_tgid; /* As bpf_get_current_pid_tgid(); 0: the slot is free. */
  __s32 vcpu_id;  /* KVM's; -1: not known (no tracepoint with the vCPU fired). */
  __u32 cells_used;
  __u64 vcpu;          /* The kernel's struct kvm_vcpu; 0: not seen. */
  __u64 exit_ns;       /* Out of the guest since; 0: in the guest, or no exit seen. */
  __u64 user_begin_ns; /* In QEMU since; 0: not in QEMU. */
  __u64 user_ns;       /* In QEMU during this exit, or on the last trip to QEMU. */
  __u64 last_code;     /* Of the last kvm_exit. */
  __s32 user_code;     /* Of the last kvm_userspace_exit during this exit. */
  __u32 exit_cell;     /* Index + 1; 0: none. */
  __u32 user_cell;
  __u32 address_cell;   /* Touched during this exit. */
  __u32 mmio_pending;   /* An MMIO read went to QEMU: its completion is not a second access. */
  __u32 user_unclaimed; /* user_ns has not been given to an address yet. */
  __u32 address_cells;  /* How many cells hold addresses. */
  __u32 reserved;
  __u64 hits[KVM_EXITS_PROBES];
  __u8 direct[KVM_EXITS_DIRECT];
  __u8 user_direct[KVM_EXITS_USER_DIRECT];
  __u8 addresses[KVM_EXITS_ADDRESSES];
  struct kvm_exits_cell cells[KVM_EXITS_CELLS];
};

/* Thread id to slot + 1. */
struct kvm_exits_tids {
  __u16 slot[KVM_EXITS_PAGE_TIDS];
};

enum kvm_exits_message { KVM_EXITS_MESSAGE_EVENTS = 1, KVM_EXITS_MESSAGE_FAILURE = 2 };

struct kvm_exits_event {
  __u64 time_ns;     /* Of the exit. */
  __u64 duration_ns; /* To the next entry; a failure: 0. */
  __u64 qemu_ns;
  __u64
      address; /* Port or guest physical address touched; ~0: none. A failure: suberror or hardware reason. */
  __u32 code;  /* The exit's. A failure: that of the last kvm_exit. */
  __s32 user_code; /* KVM_EXIT_* where it went to QEMU, minus errno, or KVM_EXITS_NO_USER. */
};
#define KVM_EXITS_NO_USER (-0x7fffffff)
#define KVM_EXITS_NO_ADDRESS (~(__u64)0)

/* What travels through the ring: `count` events of one vCPU. */
struct kvm_exits_batch {
  __u32 message; /* An enum kvm_exits_message. */
  __u32 count;
  __u32 tgid;
  __u32 tid;
  __s32 vcpu_id;
  __u32 reserved;
  struct kvm_exits_event events[KVM_EXITS_BATCH];
};
#define KVM_EXITS_BATCH_HEADER 24
