// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The kernel's side of storage errors: follows the storage requests of the QEMUs that are watched, and
// records those that fail, are short or slow or do not end, and what the block layer fails. One thread: the
// io_context's.

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "bpf/load/io_ledger.hpp"
#include "bpf/load/ring.hpp"
#include "host/sensors.hpp"
#include "record/recorder.hpp"

namespace vmwhy::qmp_pausewatch {

class Ledger {
 public:
  struct Opened {
    std::unique_ptr<Ledger> ledger;  ///< Null: there is none; the sensor says why.
    host::SensorReport sensor;
  };
  /// Loads and attaches the probes, where this process may and the kernel can.
  /// @param syscall_probes  Also where following system calls slows down every call of the host.
  static Opened open(bool syscall_probes);
  /// The sensor of a run that does without.
  static host::SensorReport switched_off();

  /// Begins to record. Both must outlive it.
  void start(boost::asio::io_context& io, record::Recorder& recorder);
  void watch(std::uint32_t pid, std::uint32_t vm);
  void unwatch(std::uint32_t pid);
  /// Takes what the kernel has told so far.
  void drain();
  struct UnderWay {
    std::uint64_t began_ns = 0;
    std::string path;
  };
  /// The oldest request of this process that has not ended.
  std::optional<UnderWay> oldest(std::uint32_t pid) const;
  /// Looks for requests that do not end, and for losses.
  void every_second();

 private:
  explicit Ledger(std::unique_ptr<bpf::IoLedger> probes) : probes_(std::move(probes)) {}
  void take(const io_ledger_event& event);
  void record_block(const io_ledger_event& event);
  void record_lost(std::uint64_t now);
  void record_under_way(std::uint64_t now);

  std::unique_ptr<bpf::IoLedger> probes_;
  std::unique_ptr<bpf::RingReader> reader_;
  record::Recorder* recorder_ = nullptr;
  std::map<std::uint32_t, std::uint32_t> vm_of_;            ///< By process id.
  std::set<std::pair<std::uint64_t, std::uint64_t>> told_;  ///< Under way: thread and begin.
  std::uint64_t lost_ = 0;
  std::uint64_t looked_ns_ = 0;
};

}  // namespace vmwhy::qmp_pausewatch
