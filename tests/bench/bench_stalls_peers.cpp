// SPDX-License-Identifier: BSD-2-Clause
// What kvm-stalls costs the scheduler's worst cases where no VM's thread is involved, beside its peers in the
// same run; and how long it takes to tell of a stall.

#include <signal.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bench.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::bench {
namespace {

using namespace std::chrono_literals;
using test::ChildProcess;

constexpr int kRounds = 7, kStalls = 400;
constexpr auto kThreshold = 100ms;

/// The last line of a program's output is a number of seconds.
std::optional<double> seconds_of(const std::vector<std::string>& command) {
  const auto ran = test::run_program(command);
  std::string_view text = ran.out;
  while (text.ends_with('\n')) text.remove_suffix(1);
  text.remove_prefix(text.rfind('\n') == std::string_view::npos ? 0 : text.rfind('\n') + 1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (ran.status.code != 0 || error != std::errc() || value <= 0) return std::nullopt;
  return value;
}

/// A program that watches while a workload runs.
struct Tool {
  std::string name;
  std::vector<std::string> command;  ///< Empty: none.
  std::string ready;                 ///< Part of a line on stderr or, where `on_stdout`, stdout.
  bool on_stdout = false;
  bool works = true;
  double best = 1e12;
};

/// Nothing: it does not work here.
std::optional<double> measure(const Tool& tool, const std::vector<std::string>& workload) {
  if (tool.command.empty()) return seconds_of(workload);
  ChildProcess watcher(tool.command);
  if (tool.ready.empty())
    std::this_thread::sleep_for(2s);  // It does not say when it has begun.
  else if (!(tool.on_stdout ? watcher.wait_line(tool.ready) : watcher.wait_error_line(tool.ready)))
    return std::nullopt;
  if (!watcher.running()) return std::nullopt;
  const auto value = seconds_of(workload);
  if (!watcher.running()) return std::nullopt;
  watcher.signal(SIGINT);
  watcher.wait();
  return value;
}

void compare(Report& report, const std::string& name, const std::vector<std::string>& workload,
             std::vector<Tool> tools) {
  for (int round = 0; round < kRounds; ++round) {
    for (Tool& tool : tools) {
      if (!tool.works) continue;
      const auto value = measure(tool, workload);
      tool.works = value.has_value();
      if (value) tool.best = std::min(tool.best, *value);
    }
  }
  const auto longer = [&](const Tool& tool) { return 100 * (tool.best / tools[0].best - 1); };
  if (!tools[0].works || !tools[1].works) return;
  report.add({.figure = name + ", without a tool", .value = tools[0].best, .unit = "s"});
  report.add(
      {.figure = name + ", with kvm-stalls: longer by", .value = longer(tools[1]), .unit = "%", .goal = 3});
  for (std::size_t i = 2; i < tools.size(); ++i)
    if (!tools[i].works)
      report.skip(name + " with " + tools[i].name + ": it does not start, or ended before its time");
    else
      report.add({.figure = name + ", with kvm-stalls: longer by",
                  .value = longer(tools[1]),
                  .unit = "%",
                  .peer = tools[i].name + ": longer by",
                  .peer_value = longer(tools[i])});
}

}  // namespace

VMWHY_BENCH(stalls_peers) {
  if (report.needs("qemu") || report.needs("bpf")) return;
  const std::vector<std::string> pipe{"perf", "bench", "-f", "simple", "sched", "pipe", "-l", "100000"};
  const std::vector<std::string> messaging{"perf",      "bench", "-f", "simple", "sched",
                                           "messaging", "-g",    "5",  "-l",     "200"};
  if (!seconds_of(messaging)) {
    report.skip("needs perf_bench: no perf here that has 'perf bench sched'");
    return;
  }
  const test::TempDir dir;
  test::QemuProcess vm(dir, {.boot = "idle.bin"});  // It stands.
  const std::vector<Tool> tools{
      {"", {}, ""},
      {"kvm-stalls", {test::binary("kvm-stalls"), "-p", std::to_string(vm.pid()), "--json"}, "watching"},
      {"offcputime (bcc)", {"offcputime-bpfcc", "-f", "600"}, "Tracing off-CPU time", true},
      {"perf sched record", {"perf", "sched", "record", "-o", dir / "perf.data"}, ""},
  };
  compare(report, "perf bench sched pipe", pipe, tools);
  compare(report, "perf bench sched messaging", messaging, tools);
}

VMWHY_BENCH(stalls_delay) {
  if (report.needs("qemu") || report.needs("bpf")) return;
  const test::TempDir dir;
  test::QemuProcess vm(dir, {.boot = "busy.bin"});
  vm.cont();
  if (!test::wait_until([&] { return vm.serial().find('G') != std::string::npos; })) return;
  ChildProcess watch({test::binary("kvm-stalls"), "-p", std::to_string(vm.pid()), "--min-latency",
                      std::to_string(kThreshold.count()) + "ms", "--top", "10000"});
  if (!watch.wait_error_line("watching")) return;
  std::vector<double> delays;
  std::minstd_rand random(1);
  for (int i = 0; i < kStalls; ++i) {
    // Not in step with what the tool does from time to time.
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 50'000));
    const auto stopped = std::chrono::steady_clock::now();
    vm.process().signal(SIGSTOP);
    if (!watch.wait_line("vCPU 0 was stopped by a signal")) return;
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - stopped;
    delays.push_back(took.count() - static_cast<double>(kThreshold.count()));
    vm.process().signal(SIGCONT);
    if (!watch.wait_line([](std::string_view line) {
          return line.find("vCPU 0 was stopped by a signal") != std::string_view::npos &&
                 line.find("it is over") != std::string_view::npos;
        }))
      return;
  }
  std::sort(delays.begin(), delays.end());
  report.add({.figure = "from the threshold to the line that tells of a stall, median",
              .value = delays[delays.size() / 2],
              .unit = "ms"});
  report.add({.figure = "the same, the longest", .value = delays.back(), .unit = "ms"});
  report.add({.figure = "the same, 99 of 100",
              .value = delays[delays.size() * 99 / 100],
              .unit = "ms",
              .goal = 100});
}

}  // namespace vmwhy::bench
