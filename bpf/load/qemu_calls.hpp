// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Loads and reads the probe family qemu_calls (bpf/probes/qemu_calls.bpf.c): calls of functions of watched
// processes. Attaching it to functions is left to Uprobes. One thread.

#include <cstdint>
#include <memory>
#include <string>

#include "bpf/include/qemu_calls.h"
#include "bpf/load/environment.hpp"
#include "bpf/load/failure.hpp"

namespace vmwhy::bpf {

struct QemuCallsLosses {
  std::uint64_t calls = 0;
  /// Calls that should have come and did not.
  std::uint64_t lost = 0;
};

class QemuCalls {
 public:
  /// Verifies and loads; nobody is watched, nothing attached yet.
  /// @param ring_bytes  Rounded up to a power of two of pages.
  /// Errors: the obstacle of the environment, or libbpf's errno with its last words.
  static Result<std::unique_ptr<QemuCalls>> open(const Environment& environment,
                                                 std::size_t ring_bytes = 1u << 20);
  ~QemuCalls();

  /// @param pid  Of a process, not a thread. Errors: the table of 16384 processes is full.
  Result<void> watch(std::uint32_t pid);
  void unwatch(std::uint32_t pid);
  QemuCallsLosses losses() const;
  /// Of the program to attach; stays ours.
  int program_fd() const;
  int ring_fd() const;

 private:
  class Impl;
  explicit QemuCalls(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vmwhy::bpf
