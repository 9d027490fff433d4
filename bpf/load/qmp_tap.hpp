// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Loads, attaches and reads the probe family qmp_tap (bpf/probes/qmp_tap.bpf.c): the bytes that watched
// processes send and receive through sockets. Which socket is a monitor is the caller's to find out; until it
// says so, a socket's traffic comes with the flag that nobody knows it. One thread.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bpf/include/qmp_tap.h"
#include "bpf/load/environment.hpp"
#include "bpf/load/failure.hpp"

namespace vmwhy::bpf {

struct QmpTapOptions {
  /// How sends and receives are followed.
  enum class Form {
    automatic,   ///< tracepoint where the kernel has it, function otherwise.
    tracepoint,  ///< sock_send_length and sock_recv_length (Linux 6.3): every socket; others' cost a lookup.
    function,    ///< fexit of the Unix stream functions: no TCP monitors.
  };
  Form form = Form::automatic;
  bool follow = false;  ///< Also watch programs that start and are named like a QEMU, and tell of them.
  std::size_t ring_bytes = 16u << 20;  ///< Rounded up to a power of two of pages.
};

struct QmpTapLosses {
  std::uint64_t counters[QMP_TAP_STATS] = {};
  /// Runs of the programs that the kernel left out since one was under way on that CPU.
  std::uint64_t missed = 0;
  /// Pieces of monitors' traffic that should have come and did not.
  std::uint64_t lost() const {
    return counters[QMP_TAP_STAT_RING_FULL] + counters[QMP_TAP_STAT_UNREAD] + missed;
  }
  static const char* name(unsigned stat);
};

class QmpTap {
 public:
  /// Verifies, loads and attaches; nobody is watched yet.
  /// Errors: the obstacle of the environment, or libbpf's errno with its last words.
  static Result<std::unique_ptr<QmpTap>> open(const Environment& environment,
                                              const QmpTapOptions& options = {});
  ~QmpTap();

  /// @param pid  Of a process, not a thread. Errors: the table of 16384 processes is full.
  Result<void> watch(std::uint32_t pid);
  void unwatch(std::uint32_t pid);
  /// A socket that is counted already goes on being counted. A socket that sends a monitor's greeting is made
  /// one by the probe itself.
  /// @param ino  As in the link /proc/PID/fd/N. Errors: the table of 65536 sockets is full.
  Result<void> set_socket(std::uint64_t ino, qmp_tap_verdict verdict);
  void forget_socket(std::uint64_t ino);
  bool is_monitor(std::uint64_t ino) const;

  /// "tracepoint" or "fexit".
  const std::string& form() const;
  /// Whether starting programs are told of; it was asked for, and this kernel lets us.
  bool follows() const;
  QmpTapLosses losses() const;
  /// How often the programs ran and for how long together, where kernel.bpf_stats_enabled is set.
  std::pair<std::uint64_t, std::uint64_t> run_time() const;
  int ring_fd() const;

 private:
  class Impl;
  explicit QmpTap(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vmwhy::bpf
