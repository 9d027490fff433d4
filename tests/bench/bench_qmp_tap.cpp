// SPDX-License-Identifier: BSD-2-Clause
// What listening to a monitor costs its client, and everybody else who uses sockets.
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/object.hpp>
#include <chrono>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "bench.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/temp_dir.hpp"

namespace vmwhy::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRounds = 8, kCommands = 400, kSends = 100'000;

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

void round_trips(test::QemuProcess& vm, std::vector<double>& out_us) {
  for (int i = 0; i < kCommands; ++i) {
    const auto began = Clock::now();
    vm.call("query-status");
    out_us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - began).count());
  }
}

/// Starts it, waits until it works, and ends it by SIGINT.
class Follower {
 public:
  Follower(std::vector<std::string> args, const std::string& out, const std::string& sign)
      : child_({.args = std::move(args), .stdout_file = out}) {
    if (!child_.wait_error_line(sign)) throw std::runtime_error("it does not work: " + child_.err());
  }
  ~Follower() {
    child_.signal(SIGINT);
    child_.wait();
  }

 private:
  test::ChildProcess child_;
};

double send_ns() {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) throw std::runtime_error("socketpair");
  char byte = 0;
  const auto began = Clock::now();
  for (int i = 0; i < kSends; ++i)
    if (::send(pair[0], &byte, 1, 0) != 1 || ::recv(pair[1], &byte, 1, 0) != 1)
      throw std::runtime_error("send");
  const double took = std::chrono::duration<double, std::nano>(Clock::now() - began).count() / kSends;
  ::close(pair[0]);
  ::close(pair[1]);
  return took;
}

/// How long a request of the guest's takes, from one to the next, over a second.
double request_us(test::QemuProcess& vm) {
  const auto writes = [&] {
    double sum = 0;
    const auto reply = vm.call("query-blockstats");
    for (const auto& disk : reply.at("return").as_array())
      sum += disk.at("stats").at("wr_operations").to_number<double>();
    return sum;
  };
  const auto began = Clock::now();
  const double before = writes();
  std::this_thread::sleep_for(std::chrono::seconds(1));
  const double done = writes() - before;
  const double took = std::chrono::duration<double, std::micro>(Clock::now() - began).count();
  return done > 0 ? took / done : throw std::runtime_error("the guest does not write");
}

}  // namespace

// Turn by turn, so that what else the machine does hits all of them alike.
VMWHY_BENCH(tap_round_trip) {
  if (report.needs("qemu") || report.needs("tap")) return;
  const test::TempDir dir;
  test::QemuProcess vm(dir, {.name = "bench", .boot = "idle.bin"});
  const std::string pid = std::to_string(vm.pid());
  const bool strace = ::access("/usr/bin/strace", X_OK) == 0;
  std::vector<double> alone, tapped, traced;
  round_trips(vm, alone);
  alone.clear();
  for (int round = 0; round < kRounds; ++round) {
    round_trips(vm, alone);
    {
      const Follower tap({test::binary("qmp-tap"), "-p", pid}, dir / "tap.out", "listening to");
      round_trips(vm, tapped);
    }
    if (!strace) continue;
    const Follower peer({"strace", "-f", "-e", "trace=sendmsg,recvmsg", "-o", dir / "strace.out", "-p", pid},
                        dir / "peer.out", "attached");
    round_trips(vm, traced);
  }
  const double base = median(alone);
  report.add({.figure = "query-status round trip, alone", .value = base, .unit = "us"});
  Figure ratio{
      .figure = "round trip with qmp-tap", .value = median(tapped) / base, .unit = "ratio", .goal = 1.05};
  if (strace) {
    ratio.peer = "strace -f -e sendmsg,recvmsg";
    ratio.peer_value = median(traced) / base;
  }
  report.add(ratio);
}

VMWHY_BENCH(tap_unrelated_socket) {
  if (report.needs("qemu") || report.needs("tap")) return;
  const test::TempDir dir;
  test::QemuProcess vm(dir, {.name = "bench", .boot = "idle.bin"});
  std::vector<double> alone, tapped;
  send_ns();
  for (int round = 0; round < kRounds; ++round) {
    alone.push_back(send_ns());
    const Follower tap({test::binary("qmp-tap"), "-p", std::to_string(vm.pid())}, dir / "tap.out",
                       "listening to");
    tapped.push_back(send_ns());
  }
  report.add(
      {.figure = "send and recv of a process not watched, alone", .value = median(alone), .unit = "ns"});
  report.add({.figure = "the same with qmp-tap", .value = median(tapped), .unit = "ns"});
}

// The guest writes without a pause into memory: what is dear on QEMU's way shows.
VMWHY_BENCH(tap_guest_writes) {
  if (report.needs("qemu") || report.needs("tap") || report.needs("mount")) return;
  const test::TempDir dir;
  const test::Mount memory("tmpfs", dir.path() / "memory", "tmpfs", "size=80m");
  test::QemuProcess vm(dir, {.name = "bench",
                             .boot = "writer.bin",
                             .args = test::disk(test::sparse_file(memory / "disk.raw", 64 << 20))});
  vm.cont();
  std::vector<double> alone, tapped;
  request_us(vm);
  for (int round = 0; round < kRounds; ++round) {
    alone.push_back(request_us(vm));
    const Follower tap({test::binary("qmp-tap"), "-p", std::to_string(vm.pid())}, dir / "tap.out",
                       "listening to");
    tapped.push_back(request_us(vm));
  }
  report.add({.figure = "a guest's write of 64 KiB, alone", .value = median(alone), .unit = "us"});
  report.add({.figure = "the same with qmp-tap on its QEMU",
              .value = median(tapped) / median(alone),
              .unit = "ratio",
              .goal = 1.02});
}

}  // namespace vmwhy::bench
