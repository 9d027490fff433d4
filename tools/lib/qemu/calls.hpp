// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Follows what goes on inside of QEMUs: calls of the functions of functions.hpp, with their meaning and their
// callers, as records of type qemu_call. Nothing is to be installed in or told to a QEMU; its functions are
// found by name in its executable. One thread: the io_context's.

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bpf/load/qemu_calls.hpp"
#include "bpf/load/ring.hpp"
#include "host/sensors.hpp"
#include "record/recorder.hpp"

namespace vmwhy::qemu {

class Binary;

class Calls {
 public:
  struct Opened {
    std::unique_ptr<Calls> calls;  ///< Null: there is none; the sensor says why.
    host::SensorReport sensor;
  };
  /// Loads the probe, where this process may and the kernel can.
  static Opened open();
  /// The sensor of a run that does without.
  static host::SensorReport switched_off();
  ~Calls();

  /// Begins to record. Both must outlive it. Errors: the ring buffer cannot be read.
  Result<void> start(boost::asio::io_context& io, record::Recorder& recorder);
  /// Which functions were found, and whether they are followed, comes as a record `sensor` of that VM, named
  /// qemu, when that is known. Errors: its executable cannot be read; or the table of processes is full.
  Result<void> watch(std::uint32_t pid, std::uint32_t vm);
  void unwatch(std::uint32_t pid);
  /// Whether it is not known yet of some executable what came of attaching.
  bool attaching() const;
  /// Takes what is there now.
  void drain();
  void every_second() { note_losses(); }

 private:
  explicit Calls(std::unique_ptr<bpf::QemuCalls> probe);
  void take(const void* data, std::size_t bytes);
  struct Followed {
    std::unique_ptr<Binary> binary;
    std::optional<host::SensorReport> said;  ///< What came of attaching, up to now.
  };
  Result<Followed*> binary_of(std::uint32_t pid);
  void tell(const host::SensorReport& report, std::uint32_t vm);
  void note_losses();

  std::unique_ptr<bpf::QemuCalls> probe_;
  std::unique_ptr<bpf::RingReader> reader_;
  boost::asio::io_context* io_ = nullptr;
  record::Recorder* recorder_ = nullptr;
  /// By device and inode: QEMUs of one file share their breakpoints.
  std::map<std::pair<std::uint64_t, std::uint64_t>, Followed> binaries_;
  struct Watched {
    std::uint32_t vm = 0;
    const Followed* of = nullptr;
  };
  std::map<std::uint32_t, Watched> watched_;  ///< By pid.
  std::uint64_t lost_ = 0, looked_ns_ = 0;
};

}  // namespace vmwhy::qemu
