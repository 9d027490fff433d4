// SPDX-License-Identifier: BSD-2-Clause
// What a call of a function costs that is followed by a breakpoint, as QEMU's are.
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "bench.hpp"
#include "bpf/load/qemu_calls.hpp"
#include "bpf/load/uprobes.hpp"
#include "sym/executable.hpp"

extern "C" {
__attribute__((noinline)) int followed_with_stack(int number) {
  asm volatile("" ::"r"(number));
  return number + 1;
}
__attribute__((noinline)) int followed_plain(int number) {
  asm volatile("" ::"r"(number));
  return number + 2;
}
}

namespace vmwhy::bench {
namespace {

constexpr int kSamples = 200, kCalls = 50;

/// The best of many samples, in ns a call.
double best_ns(int (*function)(int)) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  for (int sample = 0; sample < kSamples; ++sample) {
    const auto began = Clock::now();
    for (int i = 0; i < kCalls; ++i) function(i);
    best = std::min(best, std::chrono::duration<double, std::nano>(Clock::now() - began).count() / kCalls);
  }
  return best;
}

}  // namespace

VMWHY_BENCH(qemu_calls) {
  if (report.needs("uprobes")) return;
  const double without = best_ns(followed_plain);
  auto probe = bpf::QemuCalls::open(bpf::look_around(), 64u << 20);
  const auto self = sym::Executable::open("/proc/self/exe");
  if (!probe || !self) return;
  const auto place = [&](const char* name) {
    return (*self)->file_offset((*self)->find(name)->address).value();
  };
  auto uprobes = bpf::Uprobes::start(
      (*probe)->program_fd(), "/proc/self/exe",
      {{place("followed_with_stack"), 1 | QEMU_CALLS_WITH_STACK}, {place("followed_plain"), 2}});
  if (!uprobes || !(*uprobes)->wait(std::chrono::minutes(1))) return;
  report.add({.figure = "call that is not followed", .value = without, .unit = "ns"});
  report.add({.figure = "call that is followed, in a process that is not watched",
              .value = best_ns(followed_plain),
              .unit = "ns"});
  if (!(*probe)->watch(static_cast<std::uint32_t>(::getpid()))) return;
  report.add({.figure = "call that is followed", .value = best_ns(followed_plain), .unit = "ns"});
  // The ring has room for every stack of the samples only in part: a full one costs less.
  report.add({.figure = "call that is followed, with 16 KiB of stack",
              .value = best_ns(followed_with_stack),
              .unit = "ns"});
}

}  // namespace vmwhy::bench
