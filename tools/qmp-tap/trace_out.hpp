// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Writes a run into a trace file: meta, clocks, VMs, each message, who the clients were, losses.

#include <map>
#include <memory>
#include <string>

#include "core/failure.hpp"
#include "record/recorder.hpp"
#include "tap/tap.hpp"
#include "tools/qmp-tap/options.hpp"

namespace vmwhy::qmp_tap {

class TraceOut {
 public:
  static Result<std::unique_ptr<TraceOut>> create(const Options& options, const std::string& form);

  void begin();
  void add_vm(const qmp::QemuProcess& process);
  void end_vm(std::uint32_t pid, const std::string& reason);
  /// @param json  With secrets masked.
  void add(const tap::Wire& wire, const qmp::proto::Overheard& message, const std::string& json);
  void add(const tap::Wire& wire, tap::Change change, std::uint64_t time_ns, std::uint64_t waited_ns);
  void add_lost(std::uint64_t lost, std::uint64_t since_ns);
  void tick();
  std::optional<std::string> take_error() { return recorder_.take_error(); }
  Result<trace::WriterStats> end(const bpf::QmpTapLosses& losses);

 private:
  TraceOut(std::unique_ptr<trace::Writer> writer, std::string form);

  record::Recorder recorder_;
  std::string form_;
  std::map<std::uint32_t, std::uint32_t> vm_by_pid_;
  std::uint32_t last_vm_ = 0;
};

}  // namespace vmwhy::qmp_tap
