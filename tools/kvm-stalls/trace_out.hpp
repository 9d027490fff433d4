// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The trace of a run: times, stalls, signals, ends of QEMUs, their cgroups each second, and storage requests
// that fail, are slow or do not end. One thread.

#include <boost/asio/io_context.hpp>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "core/failure.hpp"
#include "host/cgroup.hpp"
#include "host/thermal.hpp"
#include "qmp/discovery.hpp"
#include "record/recorder.hpp"
#include "storage/ledger.hpp"
#include "tools/kvm-stalls/model.hpp"
#include "tools/kvm-stalls/options.hpp"

namespace vmwhy::kvm_stalls {

class TraceOut {
 public:
  static Result<std::unique_ptr<TraceOut>> create(const Options& options);

  /// Follows storage requests of the VMs that are added, where the kernel lets it.
  void begin(const std::vector<bpf::StallsProbe>& probes, boost::asio::io_context& io);
  void add_vm(const qmp::QemuProcess& process);
  void add(const Share& share);
  void add(const stalls::Stall& stall);
  void add(const Signal& signal);
  /// @param code  As wait(2) encodes it; none where the process did not end, or only its absence was seen.
  /// @param learned  How this is known: "sched_process_exit".
  void add_end(std::uint32_t pid, std::optional<int> code, std::uint64_t time_ns, const std::string& learned);
  /// Clocks, pressure and cgroups; flushes.
  void tick();
  /// The clocks, when they showed that the host had slept.
  void add(const trace::ClockSnapshot& snapshot);
  std::optional<std::string> take_error() { return recorder_.take_error(); }
  Result<trace::WriterStats> end(const Report& total);

 private:
  TraceOut(std::unique_ptr<trace::Writer> writer, bool syscall_probes);
  std::uint32_t vm_of(std::uint32_t pid) const;

  record::Recorder recorder_;
  const bool syscall_probes_;
  std::unique_ptr<storage::Ledger> ledger_;  ///< Null: there is none; the sensor says why.
  host::CgroupMounts mounts_;
  host::ThermalWatch thermal_;
  struct Vm {
    std::uint32_t number = 0;
    bool ended = false;
  };
  std::map<std::uint32_t, Vm> vm_by_pid_;
  std::map<std::uint32_t, host::CgroupWatch> cgroups_;  ///< By process id.
  std::uint32_t vms_ = 0;
};

}  // namespace vmwhy::kvm_stalls
