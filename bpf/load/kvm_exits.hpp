// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Loads, attaches and reads the probe family kvm_exits (bpf/probes/kvm_exits.bpf.c). Owns the programs and
// maps; what the numbers mean to a person is not its business. One thread.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bpf/include/kvm_exits.h"
#include "bpf/load/environment.hpp"
#include "bpf/load/failure.hpp"

namespace vmwhy::bpf {

struct KvmExitsOptions {
  /// How programs are attached.
  enum class Form {
    automatic,  ///< btf where the kernel's BTF shows the tracepoints, raw otherwise; kvm_exit's reason as
                ///< below.
    btf,        ///< tp_btf, the reason read from what KVM cached.
    raw,        ///< raw_tp, the same without the kernel's BTF of the arguments.
    classic,    ///< kvm_exit by its classic tracepoint, the others as raw_tp.
  };
  Form form = Form::automatic;
  bool all = true;                  ///< Every QEMU; otherwise `pids`.
  std::vector<std::uint32_t> pids;  ///< Process ids (not threads), at most 4096.
  bool exits = true, userspace = true, pio = true, mmio = true;
  bool raw_events = false;
  bool direct_reads =
      true;  ///< Read the reason without a helper's call where the kernel can: cheaper, the same.
  std::uint64_t min_latency_ns = 0;
  std::uint32_t max_vcpus = 64;
  std::size_t ring_bytes = 256u << 10;  ///< Rounded up to a power of two of pages.
  std::string custom_btf;               ///< Tests: a file whose BTF stands in for the kernel's.
  Isa isa = Isa::unknown;               ///< Tests: instead of the environment's.
  unsigned exit_arguments = 0;          ///< Tests: instead of the environment's.
};

/// What became of one probe. Attached is not firing: silence and health are told apart by `hits`.
struct ProbeStatus {
  std::string name;  ///< The tracepoint's.
  std::string form;  ///< "tp_btf", "raw_tp", "classic"; "" where it was not asked for.
  bool attached = false;
  std::string error;  ///< Why not.
  std::uint64_t hits = 0;
};

/// Counters of what is missing from the result, by enum kvm_exits_stat.
struct KvmExitsLosses {
  std::uint64_t counters[KVM_EXITS_STATS] = {};
  /// Events that should have been in the result and are not.
  std::uint64_t lost() const;
  static const char* name(unsigned stat);
};

class KvmExits {
 public:
  /// Verifies and loads what the options need; nothing runs yet.
  /// Errors: the obstacle of the environment, or libbpf's errno with its last words.
  static Result<std::unique_ptr<KvmExits>> load(const Environment& environment,
                                                const KvmExitsOptions& options);
  ~KvmExits();

  /// Attaches every loaded program. One that cannot be attached is not an error as long as another one was:
  /// see probes(). Errors: none could be attached.
  Result<void> attach();
  void detach();

  std::vector<ProbeStatus> probes() const;
  KvmExitsLosses losses() const;
  /// Rows of all vCPUs seen so far. While probes run, a row may be one event behind itself.
  std::vector<kvm_exits_vcpu> snapshot() const;
  std::uint32_t vcpus() const;
  /// Lets the visitor see the rows in place, without a copy.
  void visit(const std::function<void(const kvm_exits_vcpu&)>& visitor) const;

  int ring_fd() const;
  /// After detach(): raw events that had not filled a batch.
  std::vector<kvm_exits_batch> leftovers() const;

  /// Tests: runs a raw_tp program with these arguments in the calling thread. Returns an errno, or 0.
  int test_run(const std::string& program, std::vector<std::uint64_t> arguments) const;
  /// Kernel's run-time statistics of all programs (kernel.bpf_stats_enabled): runs and ns.
  std::pair<std::uint64_t, std::uint64_t> run_time() const;

 private:
  class Impl;
  explicit KvmExits(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vmwhy::bpf
