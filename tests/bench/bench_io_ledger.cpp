// SPDX-License-Identifier: BSD-2-Clause
// What following storage requests costs: processes that are not watched, and a call of one that is.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "bench.hpp"
#include "bpf/load/io_ledger.hpp"
#include "bpf/load/ring.hpp"
#include "clock/clock.hpp"
#include "core/unique_fd.hpp"
#include "tests/support/loop_device.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/temp_dir.hpp"

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

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1,
                         static_cast<std::size_t>(q * static_cast<double>(values.size())))];
}

/// Seconds of 4 KiB reads past the page cache from a loop device over tmpfs: where nothing else is slow.
double direct_reads(const std::string& device) {
  constexpr int kReads = 2000;
  const UniqueFd fd(::open(device.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
  void* buffer = nullptr;
  if (!fd || ::posix_memalign(&buffer, 4096, 4096) != 0) throw std::runtime_error("cannot read " + device);
  const auto began = std::chrono::steady_clock::now();
  for (int i = 0; i < kReads; ++i)
    if (::pread(fd.get(), buffer, 4096, (i % 1024) * 4096) != 4096) throw std::runtime_error("pread");
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  ::free(buffer);
  return took.count();
}

}  // namespace

VMWHY_BENCH(io_ledger_detect) {
  if (report.needs("bpf")) return;
  const auto probes = open(Form::any);
  if (!probes || !probes->watch(static_cast<std::uint32_t>(::getpid())))
    throw std::runtime_error("no probes");
  boost::asio::io_context io;
  std::vector<double> delays;
  auto reader = bpf::RingReader::create(probes->ring_fd(), [&](const void* data, std::size_t bytes) {
    io_ledger_event event{};
    std::memcpy(&event, data, std::min(bytes, sizeof event));
    delays.push_back(static_cast<double>(clock::now_ns() - event.time_ns) / 1e6);
  });
  if (!reader) throw std::runtime_error("no ring");
  (*reader)->start(io);
  constexpr std::size_t kFailures = 500;
  while (delays.size() < kFailures) {
    const std::size_t before = delays.size();
    ::fsync(-1);
    while (delays.size() == before) io.run_one();
  }
  report.add(
      {.figure = "p50 from a failed call to its record", .value = quantile(delays, 0.5), .unit = "ms"});
  report.add({.figure = "p99 from a failed call to its record",
              .value = quantile(delays, 0.99),
              .unit = "ms",
              .goal = 10});
}

VMWHY_BENCH(io_ledger_requests) {
  if (report.needs("bpf") || report.needs("loop") || report.needs("mount")) return;
  const test::TempDir dir;
  const test::Mount memory("tmpfs", dir.path() / "memory", "tmpfs", "size=16m");
  const test::LoopDevice loop(test::sparse_file(memory / "disk", 8 << 20));
  struct stat device {};
  if (::stat(loop.path().c_str(), &device) != 0) throw std::runtime_error("stat");
  double alone = 1e9, unwatched = 1e9, counted = 1e9;
  for (int i = 0; i < 20; ++i) {
    alone = std::min(alone, direct_reads(loop.path()));
    bpf::IoLedgerOptions options;
    options.form = Form::none;
    options.rows = 4;
    auto probes = bpf::IoLedger::open(bpf::look_around(), options);
    if (!probes) throw std::runtime_error("no probes");
    unwatched = std::min(unwatched, direct_reads(loop.path()));
    if (!(*probes)->count_disk(major(device.st_rdev) << 20 | minor(device.st_rdev), 0))
      throw std::runtime_error("no row");
    counted = std::min(counted, direct_reads(loop.path()));
  }
  constexpr double kPerRead = 1e9 / 2000;
  report.add(
      {.figure = "4 KiB direct read of a loop device, no probes", .value = alone * kPerRead, .unit = "ns"});
  report.add({.figure = "the same of a disk that vm-iowatch does not show, to no probes",
              .value = unwatched / alone,
              .unit = "ratio",
              .goal = 1});
  report.add({.figure = "the same of a disk that vm-iowatch counts, to no probes",
              .value = counted / alone,
              .unit = "ratio",
              .goal = 1.01});
}

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
