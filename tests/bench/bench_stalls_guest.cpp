// SPDX-License-Identifier: BSD-2-Clause
// How far the shares of kvm-stalls are from what a guest that spins and halts says of itself, by its time
// stamp counter. VMWHY_BENCH_SECONDS: how long.

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <string>

#include "bench.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/duty_guest.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/stalls_document.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::bench {

namespace json = boost::json;
using test::DutyTimes;

VMWHY_BENCH(stalls_guest) {
  if (report.needs("qemu") || report.needs("bpf")) return;
  const char* text = std::getenv("VMWHY_BENCH_SECONDS");
  const int seconds = text ? std::max(10, std::atoi(text)) : 20;
  const test::TempDir dir;
  const std::string times = dir / "times";
  test::QemuProcess vm(dir, {.boot = "duty.bin", .args = DutyTimes::device(times)});
  vm.cont();
  if (!test::wait_until([&] { return DutyTimes::read(times).cycles > 5; }))
    return report.skip("the guest did nothing");
  test::ChildProcess run({test::binary("kvm-stalls"), "-p", std::to_string(vm.pid()), "--json", "-d",
                          std::to_string(seconds) + "s"});
  if (!run.wait_error_line("watching")) return report.skip("kvm-stalls did not begin");
  const DutyTimes before = DutyTimes::read(times);
  if (!run.wait(std::chrono::steady_clock::now() + std::chrono::seconds(seconds + 20)))
    return report.skip("kvm-stalls did not end");
  const DutyTimes after = DutyTimes::read(times);
  json::error_code error;
  const json::value document = json::parse(run.out(), error);
  const json::object* vcpu =
      !error && document.is_object() ? test::thread_of(document.as_object(), "vcpu") : nullptr;
  if (vcpu == nullptr) return report.skip("kvm-stalls told of no vCPU");
  const double halted = after.halted_share_since(before);
  const double idle = test::share(*vcpu, "idle") + test::share(*vcpu, "halted");
  // A halt that ends before the vCPU gets a CPU is one to the guest still, and a wait to the host.
  report.add({.figure = "vCPU halted, as the guest measured", .value = 100 * halted, .unit = "%"});
  report.add({.figure = "vCPU idle, by kvm-stalls", .value = 100 * idle, .unit = "%"});
  report.add({.figure = "vCPU waited for a CPU", .value = 100 * test::share(*vcpu, "waiting"), .unit = "%"});
  report.add({.figure = "how far they are from each other",
              .value = 100 * std::abs(idle - halted),
              .unit = "%",
              .goal = 1});
}

}  // namespace vmwhy::bench
