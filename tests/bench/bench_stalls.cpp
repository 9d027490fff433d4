// SPDX-License-Identifier: BSD-2-Clause
// What the probe family stalls costs at each switch of the scheduler, and how far its accounting is from the
// kernel's own: two threads on one CPU that wake each other by pipes, the scheduler's worst case.

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <fstream>
#include <stdexcept>
#include <thread>

#include "bpf/load/stalls.hpp"
#include "tests/bench/bench.hpp"

namespace vmwhy::bench {
namespace {

constexpr int kRounds = 40, kTrips = 5'000;

void pin() {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(0, &set);
  ::sched_setaffinity(0, sizeof set, &set);
}

std::uint32_t my_tid() {
  return static_cast<std::uint32_t>(::syscall(SYS_gettid));
}

/// A thread that answers each byte with one.
class Echo {
 public:
  Echo() {
    if (::pipe(to_.data()) != 0 || ::pipe(from_.data()) != 0) throw std::runtime_error("no pipes");
    thread_ = std::thread([this] {
      pin();
      char byte;
      while (::read(to_[0], &byte, 1) == 1 && ::write(from_[1], &byte, 1) == 1) {
      }
    });
  }
  ~Echo() {
    ::close(to_[1]);
    thread_.join();
    for (const int fd : {to_[0], from_[0], from_[1]}) ::close(fd);
  }
  void trip() const {
    char byte = 0;
    if (::write(to_[1], &byte, 1) != 1 || ::read(from_[0], &byte, 1) != 1) throw std::runtime_error("pipe");
  }

 private:
  std::array<int, 2> to_{}, from_{};
  std::thread thread_;
};

/// ns of one trip there and back (two switches).
double trip_ns(const Echo& echo) {
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kTrips; ++i) echo.trip();
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
  return took.count() / kTrips;
}

VMWHY_BENCH(stalls_switch) {
  if (report.needs("bpf")) return;
  // By turns, and the best of each: what else the machine does hits all of them.
  double without = 1e12, others = 1e12, watched = 1e12;
  std::thread([&] {
    pin();
    const Echo echo;
    trip_ns(echo);
    auto probe = bpf::Stalls::load(bpf::look_around(), {});
    if (!probe) throw std::runtime_error("the probe cannot be loaded");
    for (int round = 0; round < kRounds; ++round) {
      without = std::min(without, trip_ns(echo));
      if (!(*probe)->attach()) throw std::runtime_error("the probe cannot be attached");
      others = std::min(others, trip_ns(echo));
      const auto slot = (*probe)->add(static_cast<std::uint32_t>(::getpid()), my_tid(), 1'000'000'000);
      if (!slot) throw std::runtime_error("the thread cannot be registered");
      watched = std::min(watched, trip_ns(echo));
      (*probe)->remove(*slot);
      (*probe)->detach();
    }
  }).join();
  report.add({.figure = "pipe round trip, no probe", .value = without, .unit = "ns"});
  report.add(
      {.figure = "the same, probe attached, no thread of it registered", .value = others, .unit = "ns"});
  report.add({.figure = "cost where no VM's thread is involved",
              .value = 100 * (others / without - 1),
              .unit = "%",
              .goal = 3});
  report.add({.figure = "the same, one of the two threads registered", .value = watched, .unit = "ns"});
}

struct SchedStat {
  double run_ns = 0, wait_ns = 0;
};
SchedStat schedstat(std::uint32_t tid) {
  SchedStat out;
  std::ifstream("/proc/self/task/" + std::to_string(tid) + "/schedstat") >> out.run_ns >> out.wait_ns;
  return out;
}

VMWHY_BENCH(stalls_accounting) {
  if (report.needs("bpf")) return;
  auto probe = bpf::Stalls::load(bpf::look_around(), {});
  if (!probe || !(*probe)->attach()) throw std::runtime_error("the probe cannot be attached");
  double run = 0, wait = 0;
  std::thread([&] {
    pin();
    const Echo echo;
    std::thread rival([] {
      pin();
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(3);
      while (std::chrono::steady_clock::now() < end) {
      }
    });
    ::usleep(1000);  // A switch: the kernel's own sums are whole.
    const SchedStat before = schedstat(my_tid());
    const auto slot = (*probe)->add(static_cast<std::uint32_t>(::getpid()), my_tid(), 1'000'000'000);
    if (!slot) throw std::runtime_error("the thread cannot be registered");
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
    while (std::chrono::steady_clock::now() < end) {
    }
    ::usleep(1000);
    const SchedStat after = schedstat(my_tid());
    const auto row = (*probe)->read(*slot);
    rival.join();
    if (!row) throw std::runtime_error("the row cannot be read");
    const auto ran = static_cast<double>(row->ns[STALLS_RUNNING] + row->ns[STALLS_UNKNOWN]);
    const auto waited = static_cast<double>(row->ns[STALLS_WAITING] + row->ns[STALLS_THROTTLED]);
    const double of = after.run_ns - before.run_ns + after.wait_ns - before.wait_ns;
    run = 100 * std::abs(ran - (after.run_ns - before.run_ns)) / of;
    wait = 100 * std::abs(waited - (after.wait_ns - before.wait_ns)) / of;
  }).join();
  report.add({.figure = "time on a CPU, against schedstat", .value = run, .unit = "%", .goal = 1});
  report.add({.figure = "time ready, against schedstat", .value = wait, .unit = "%", .goal = 1});
}

}  // namespace
}  // namespace vmwhy::bench
