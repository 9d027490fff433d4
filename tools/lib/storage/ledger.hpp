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
#include <vector>

#include "bpf/load/io_ledger.hpp"
#include "bpf/load/ring.hpp"
#include "host/sensors.hpp"
#include "record/recorder.hpp"

namespace vmwhy::storage {

struct LedgerOptions {
  bool syscall_probes = false;  ///< Also where following system calls slows down every call of the host.
  std::uint32_t rows = 0;       ///< As IoLedgerOptions::rows.
  std::uint64_t slow_ns = 500'000'000;
  std::uint64_t hang_ns = 5'000'000'000;  ///< A request that has not ended after this time hangs.
};

class Ledger {
 public:
  struct Opened {
    std::unique_ptr<Ledger> ledger;  ///< Null: there is none; the sensor says why.
    host::SensorReport sensor;
  };
  /// Loads and attaches the probes, where this process may and the kernel can.
  static Opened open(const LedgerOptions& options);
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
  void look();
  /// The requests that hang now, as look() records each of them once.
  std::vector<trace::OwnedRecord> hanging(std::uint64_t now_ns) const;
  bpf::IoLedger& probes() { return *probes_; }
  /// Whether system calls are followed.
  bool sees_calls() const;

 private:
  Ledger(std::unique_ptr<bpf::IoLedger> probes, std::uint64_t hang_ns)
      : probes_(std::move(probes)), hang_ns_(hang_ns) {}
  void take(const io_ledger_event& event);
  void record_block(const io_ledger_event& event);
  void record_lost(std::uint64_t now);
  void record_under_way(std::uint64_t now);

  std::unique_ptr<bpf::IoLedger> probes_;
  std::unique_ptr<bpf::RingReader> reader_;
  record::Recorder* recorder_ = nullptr;
  std::map<std::uint32_t, std::uint32_t> vm_of_;            ///< By process id.
  std::set<std::pair<std::uint64_t, std::uint64_t>> told_;  ///< Under way: thread and begin.
  const std::uint64_t hang_ns_;
  std::uint64_t lost_ = 0;
  std::uint64_t looked_ns_ = 0;
};

}  // namespace vmwhy::storage
