// SPDX-License-Identifier: BSD-2-Clause
// kvm-stalls for a long time, on an idle guest: with nothing beside it no stall may be told, and under
// stress-ng its memory stays as it is, and what is lost is counted. VMWHY_BENCH_SECONDS: how long each takes.

#include <signal.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "bench.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/stalls_document.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::bench {
namespace {

namespace json = boost::json;
using test::ChildProcess;
using test::share;

int seconds() {
  const char* text = std::getenv("VMWHY_BENCH_SECONDS");
  return text ? std::max(10, std::atoi(text)) : 20;
}

/// Resident memory, KiB.
double resident(pid_t pid) {
  const std::string status = test::read_file("/proc/" + std::to_string(pid) + "/status");
  const std::size_t at = status.find("VmRSS:");
  return at == std::string::npos ? 0 : std::strtod(status.c_str() + at + 6, nullptr);
}

struct Ran {
  json::object document;
  double early_kib = 0, late_kib = 0;  ///< Resident, a tenth of the time after the begin, and at the end.
};

/// Watches an idle guest, with a trace, beside a program where one is named.
std::optional<Ran> watch(const std::vector<std::string>& beside) {
  const test::TempDir dir;
  test::QemuProcess vm(dir, {.boot = "idle.bin"});
  vm.cont();
  if (!test::wait_until([&] { return vm.serial().find('G') != std::string::npos; })) return std::nullopt;
  ChildProcess run({test::binary("kvm-stalls"), "-p", std::to_string(vm.pid()), "--json", "--top", "1000",
                    "-o", dir / "long.vmt"});
  if (!run.wait_error_line("watching")) return std::nullopt;
  std::optional<ChildProcess> other;
  if (!beside.empty()) other.emplace(beside);
  Ran out;
  const auto length = std::chrono::seconds(seconds());
  std::this_thread::sleep_for(length / 10);
  out.early_kib = resident(run.pid());
  std::this_thread::sleep_for(length - length / 10);
  out.late_kib = resident(run.pid());
  if (other && !other->running()) return std::nullopt;
  run.signal(SIGINT);
  if (!run.wait()) return std::nullopt;
  json::error_code error;
  const json::value document = json::parse(run.out(), error);
  if (error || !document.is_object()) return std::nullopt;
  out.document = document.as_object();
  return out;
}

void add_losses(Report& report, const json::object& document) {
  for (const auto& loss : document.at("lost").as_object())
    report.add({.figure = "lost: " + std::string(loss.key()),
                .value = loss.value().to_number<double>(),
                .unit = "records"});
}

/// Of a stall that is for want of a CPU the host is the cause: it waited, or who had QEMU's lock did.
bool for_want_of_a_cpu(const json::object& stall) {
  return share(stall, "waiting") + share(stall, "lock") > 0.5;
}

void add_stalls(Report& report, const json::object& document) {
  const json::array& stalls = document.at("stalls").as_array();
  const auto hosts = std::count_if(stalls.begin(), stalls.end(), [](const json::value& stall) {
    return for_want_of_a_cpu(stall.as_object());
  });
  report.add(
      {.figure = "time watched", .value = document.at("window_ns").to_number<double>() / 1e9, .unit = "s"});
  report.add({.figure = "stalls for want of a CPU", .value = static_cast<double>(hosts), .unit = "stalls"});
  report.add({.figure = "other stalls, of an idle guest false alarms",
              .value = static_cast<double>(stalls.size()) - static_cast<double>(hosts),
              .unit = "stalls",
              .goal = 0});
  for (const json::value& thread : document.at("threads").as_array())
    if (thread.at("role").as_string() == "vcpu")
      report.add({.figure = "vCPU halted",
                  .value = 100 * (share(thread.as_object(), "idle") + share(thread.as_object(), "halted")),
                  .unit = "%"});
  report.add({.figure = "threads whose shares are not 100 %",
              .value = static_cast<double>(document.at("errors").as_array().size()),
              .unit = "threads",
              .goal = 0});
}

}  // namespace

VMWHY_BENCH(stalls_idle) {
  if (report.needs("qemu") || report.needs("bpf")) return;
  const auto ran = watch({});
  if (!ran) return report.skip("the run did not end well");
  add_stalls(report, ran->document);
  add_losses(report, ran->document);
}

VMWHY_BENCH(stalls_stress) {
  if (report.needs("qemu") || report.needs("bpf")) return;
  if (test::run_program({"stress-ng", "--version"}).status.code != 0)
    return report.skip("needs stress_ng: no stress-ng here");
  // At the least priority: whoever else works on this machine comes first.
  const auto ran = watch({"nice", "-n", "19", "stress-ng", "--quiet", "--switch", "2", "--fork", "1", "--vm",
                          "1", "--vm-bytes", "64M", "--pipe", "1", "--pthread", "1", "--timeout", "2h"});
  if (!ran) return report.skip("the run did not end well");
  add_stalls(report, ran->document);
  report.add({.figure = "kvm-stalls' memory", .value = ran->late_kib / 1024, .unit = "MiB"});
  report.add({.figure = "it grew after the first tenth of the time by",
              .value = ran->late_kib - ran->early_kib,
              .unit = "KiB",
              .goal = 1024});
  add_losses(report, ran->document);
}

}  // namespace vmwhy::bench
