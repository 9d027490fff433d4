// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Writes a run into a trace file: meta, clocks, VMs, each exit, failures, sums, losses.

#include <memory>
#include <ostream>

#include "core/failure.hpp"
#include "record/recorder.hpp"
#include "tools/kvm-exits/model.hpp"
#include "tools/kvm-exits/options.hpp"

namespace vmwhy::kvm_exits {

class TraceOut {
 public:
  static Result<std::unique_ptr<TraceOut>> create(const Options& options,
                                                  const bpf::Environment& environment);

  void begin();
  void add(const kvm_exits_batch& batch);
  void add(const Report& report);
  void tick();
  /// The sentence of the first disk error, once.
  std::optional<std::string> take_error() { return recorder_.take_error(); }
  /// Footer: probes with their hits, losses.
  Result<trace::WriterStats> end(const Report& total, std::uint64_t lost);

 private:
  TraceOut(std::unique_ptr<trace::Writer> writer, kvm::Isa isa);
  std::uint32_t vm_of(std::uint32_t pid);

  record::Recorder recorder_;
  kvm::Isa isa_;
  std::map<std::uint32_t, std::uint32_t> vm_by_pid_;
};

/// "internal error: KVM_INTERNAL_ERROR_EMULATION; last exit EPT_VIOLATION".
std::string failure_sentence(const kvm_exits_event& event, kvm::Isa isa);

}  // namespace vmwhy::kvm_exits
