// SPDX-License-Identifier: BSD-2-Clause
// How long a verdict takes, and what watching costs.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/object.hpp>
#include <chrono>
#include <ctime>
#include <memory>
#include <thread>
#include <vector>

#include "bench.hpp"
#include "host/proc_file.hpp"
#include "host/process.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/fake_vm.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/temp_dir.hpp"

namespace vmwhy::bench {
namespace {

using namespace std::chrono_literals;

constexpr int kPauses = 200;
constexpr int kMonitors = 500;
constexpr std::chrono::seconds kIdle{20};

double realtime_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

/// QEMU's own stamp of an event.
double stamp_ms(const boost::json::object& event) {
  const auto& stamp = event.at("timestamp").as_object();
  return static_cast<double>(stamp.at("seconds").to_number<std::int64_t>()) * 1e3 +
         static_cast<double>(stamp.at("microseconds").to_number<std::int64_t>()) / 1e3;
}

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1,
                         static_cast<std::size_t>(q * static_cast<double>(values.size())))];
}

/// A process with many monitors, so that its own work is not counted.
class Monitors {
 public:
  Monitors(const test::TempDir& dir, int count) {
    int ready[2];
    if (::pipe(ready) != 0) throw std::runtime_error("pipe");
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      std::vector<std::unique_ptr<test::FakeVm>> vms;
      for (int i = 0; i < count; ++i)
        vms.push_back(std::make_unique<test::FakeVm>(path(dir, i), "vm" + std::to_string(i)));
      if (::write(ready[1], "r", 1) != 1) ::_exit(1);
      while (true) ::pause();
    }
    ::close(ready[1]);
    char byte;
    if (::read(ready[0], &byte, 1) != 1) throw std::runtime_error("the monitors did not start");
    ::close(ready[0]);
  }
  Monitors(const Monitors&) = delete;
  Monitors& operator=(const Monitors&) = delete;
  ~Monitors() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  static std::string path(const test::TempDir& dir, int i) { return dir / ("m" + std::to_string(i)); }

 private:
  pid_t pid_ = -1;
};

}  // namespace

VMWHY_BENCH(pause_to_verdict) {
  if (report.needs("qemu")) return;
  const test::TempDir dir;
  test::QemuOptions options;
  options.boot = "busy.bin";
  options.args = test::disk(dir.sparse("disk.raw", 64u << 20));
  test::QemuProcess vm(dir, options);
  vm.cont();
  test::ChildProcess watch(
      {test::binary("qmp-pausewatch"), "--json", "-o", dir / "t.vmt", "-s", vm.monitor()});
  if (!watch.wait_error_line("watching")) throw std::runtime_error("it does not watch: " + watch.err());
  std::vector<double> times;
  for (int i = 0; i < kPauses; ++i) {
    // Collections of one VM keep a distance of 100 ms.
    std::this_thread::sleep_for(150ms);
    vm.stop();
    const auto stop = vm.qmp().wait_event("STOP");
    const auto line = watch.wait_line("\"report\":\"new\"");
    const double printed = realtime_ms();
    if (!stop || !line) throw std::runtime_error("no report came: " + watch.err());
    times.push_back(printed - stamp_ms(*stop));
    vm.cont();
    if (!watch.wait_line("\"report\":\"ended\"")) throw std::runtime_error("no end came: " + watch.err());
  }
  report.add({.figure = "p50 from STOP to printed verdict", .value = quantile(times, 0.5), .unit = "ms"});
  report.add({.figure = "p99 from STOP to printed verdict",
              .value = quantile(times, 0.99),
              .unit = "ms",
              .goal = 50});
}

VMWHY_BENCH(watch_500) {
  const test::TempDir dir;
  const Monitors monitors(dir, kMonitors);
  std::vector<std::string> args{test::binary("qmp-pausewatch"), "-o", dir / "t.vmt"};
  for (int i = 0; i < kMonitors; ++i) args.insert(args.end(), {"-s", Monitors::path(dir, i)});
  test::ChildProcess watch(args);
  for (int i = 0; i < kMonitors; ++i)
    if (!watch.wait_error_line("watching")) throw std::runtime_error("it does not watch: " + watch.err());
  std::this_thread::sleep_for(3s);
  const host::ProcessWatch process(static_cast<std::uint32_t>(watch.pid()));
  const auto before = process.sample();
  const auto began = std::chrono::steady_clock::now();
  std::this_thread::sleep_for(kIdle);
  const auto after = process.sample();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  if (!before || !after) throw std::runtime_error("it ended: " + watch.err());
  const double cpu = static_cast<double>(after->cpu_ns - before->cpu_ns) / 1e9 / took.count() * 100;
  report.add({.figure = "idle CPU of one core", .value = cpu, .unit = "percent", .goal = 1});
  report.add({.figure = "resident memory",
              .value = static_cast<double>(after->rss_bytes) / 1e6,
              .unit = "MB",
              .goal = 100});
  watch.signal(SIGINT);
  watch.wait();
}

}  // namespace vmwhy::bench
