// SPDX-License-Identifier: BSD-2-Clause
// What following storage requests costs: processes that are not watched, and a call of one that is.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>

#include "bench.hpp"
#include "bpf/load/io_ledger.hpp"
#include "core/unique_fd.hpp"

namespace vmwhy::bench {
namespace {

using Form = bpf::IoLedgerOptions::Form;

constexpr int kRounds = 10;
/// So short that many of them meet nothing else that runs.
constexpr int kSamples = 200;
constexpr int kCalls = 500;

/// Nanoseconds of one call, in the best of the rounds so far.
struct Best {
  double getppid = 1e9, pread = 1e9;

  void round() {
    for (int i = 0; i < kSamples; ++i) sample();
  }
  void sample() {
    const UniqueFd fd(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
    char byte;
    const auto began = std::chrono::steady_clock::now();
    for (int i = 0; i < kCalls; ++i) ::syscall(SYS_getppid);
    const auto between = std::chrono::steady_clock::now();
    for (int i = 0; i < kCalls; ++i)
      if (::pread(fd.get(), &byte, 1, 0) != 1) throw std::runtime_error("pread of /dev/zero");
    const auto end = std::chrono::steady_clock::now();
    getppid = std::min(getppid, std::chrono::duration<double, std::nano>(between - began).count() / kCalls);
    pread = std::min(pread, std::chrono::duration<double, std::nano>(end - between).count() / kCalls);
  }
};

std::unique_ptr<bpf::IoLedger> open(Form form) {
  bpf::IoLedgerOptions options;
  options.form = form;
  auto opened = bpf::IoLedger::open(bpf::look_around(), options);
  return opened ? std::move(*opened) : nullptr;
}

}  // namespace

VMWHY_BENCH(io_ledger_tax) {
  if (report.needs("bpf")) return;
  Best alone, with_default, with_raw, watched;
  // In turns, so that what else the machine does falls on all alike.
  for (int i = 0; i < kRounds; ++i) {
    alone.round();
    if (const auto probes = open(Form::automatic)) with_default.round();
    if (const auto probes = open(Form::raw)) {
      with_raw.round();
      if (probes->watch(static_cast<std::uint32_t>(::getpid()))) watched.round();
    }
  }
  report.add({.figure = "getppid, no probes", .value = alone.getppid, .unit = "ns"});
  report.add({.figure = "getppid of an unwatched process, default, to no probes",
              .value = with_default.getppid / alone.getppid,
              .unit = "ratio",
              .goal = 1});
  report.add({.figure = "pread of an unwatched process, default, to no probes",
              .value = with_default.pread / alone.pread,
              .unit = "ratio",
              .goal = 1});
  report.add({.figure = "getppid of an unwatched process, --syscall-probes, to no probes",
              .value = with_raw.getppid / alone.getppid,
              .unit = "ratio"});
  report.add({.figure = "pread of an unwatched process, --syscall-probes, to no probes",
              .value = with_raw.pread / alone.pread,
              .unit = "ratio"});
  report.add({.figure = "pread of a watched process, --syscall-probes, more than no probes",
              .value = watched.pread - alone.pread,
              .unit = "ns"});
}

}  // namespace vmwhy::bench
