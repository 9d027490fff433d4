// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The probe kvm_exits loaded against a made-up kernel, and driven with made-up tracepoint arguments in the
// calling thread, which plays the vCPU.

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>

#include "bpf/load/kvm_exits.hpp"
#include "tests/bpf/kernel_memory.hpp"
#include "tests/bpf/layouts.hpp"
#include "tests/support/capability.hpp"

namespace vmwhy::test {

class KvmExitsProbe : public ::testing::Test {
 protected:
  void SetUp() override;

  /// Loads the probe against layout `layout`, all raw_tp, nothing attached.
  void load(const std::string& layout, bpf::Isa isa, bpf::KvmExitsOptions options = {});

  void run(const std::string& program, std::vector<std::uint64_t> arguments);
  void exit() { run(direct_ ? "raw_kvm_exit_direct" : "raw_kvm_exit", {memory_->address(), 1}); }
  void entry() { run("raw_kvm_entry", {memory_->address(), 0}); }
  void userspace_exit(std::uint32_t reason, int error = 0) {
    run("raw_kvm_userspace_exit", {reason, static_cast<std::uint64_t>(static_cast<std::int64_t>(error))});
  }
  void fpu(int load) { run("raw_kvm_fpu", {static_cast<std::uint64_t>(load)}); }
  void pio(bool write, std::uint32_t port) { run("raw_kvm_pio", {write, port, 1, 1, 0}); }
  void mmio(int type, std::uint64_t gpa) {
    run("raw_kvm_mmio", {static_cast<std::uint64_t>(type), 4, gpa, 0});
  }

  /// This thread's row.
  kvm_exits_vcpu row() const;
  /// Its cell for (kind, code), and `detail` for addresses; nullptr without one. Valid until the next call.
  const kvm_exits_cell* cell(kvm_exits_kind kind, std::uint64_t code, std::uint32_t detail = 0);
  std::uint64_t count(kvm_exits_kind kind, std::uint64_t code, std::uint32_t detail = 0);
  std::uint64_t lost(kvm_exits_stat stat) const { return probe_->losses().counters[stat]; }

  bool direct_ = false;  ///< As KvmExitsOptions::direct_reads, of the next load().
  std::unique_ptr<KernelMemory> memory_;
  std::unique_ptr<bpf::KvmExits> probe_;
  kvm_exits_vcpu row_{};
};

/// Burns `ns` of time: what a clock between two events must at least show.
void busy_wait(std::uint64_t ns);

}  // namespace vmwhy::test
