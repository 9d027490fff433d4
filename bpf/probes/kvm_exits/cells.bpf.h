/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* A row's cells: one for each exit reason, trip to QEMU and address. */

#include "bpf/probes/kvm_exits/rows.bpf.h"

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
