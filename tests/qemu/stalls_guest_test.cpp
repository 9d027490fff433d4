// SPDX-License-Identifier: BSD-2-Clause
// kvm-stalls on guests that do what is known: one that measures itself how long it spins and halts, and one
// that needs QEMU's big lock all the time, which the main thread holds.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <boost/json.hpp>
#include <cstring>
#include <string_view>

#include "core/unique_fd.hpp"
#include "stalls_run.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/duty_guest.hpp"
#include "tests/support/migration.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

namespace json = boost::json;

class StallsOfKnownGuests : public ::testing::Test {
 protected:
  void SetUp() override {
    VMWHY_NEEDS(qemu);
    VMWHY_NEEDS(bpf);
  }
};

TEST_F(StallsOfKnownGuests, SharesAreThoseThatTheGuestItselfMeasures) {
  const TempDir dir;
  const std::string times = dir / "times";
  QemuProcess vm(dir, {.boot = "duty.bin", .args = DutyTimes::device(times)});
  vm.cont();
  ASSERT_TRUE(wait_until([&] { return DutyTimes::read(times).cycles > 2; }));
  StallsRun run(dir, vm, {"--min-latency", "10s"});
  const DutyTimes before = DutyTimes::read(times);
  ASSERT_TRUE(wait_until([&] { return DutyTimes::read(times).cycles >= before.cycles + 40; }));
  const DutyTimes after = DutyTimes::read(times);
  run.process().signal(SIGINT);
  const json::object document = run.finish_by_itself();
  const json::object* vcpu = thread_of(document, "vcpu");
  ASSERT_NE(vcpu, nullptr);
  const double halted = after.halted_share_since(before);
  const double idle = share(*vcpu, "idle"), waiting = share(*vcpu, "waiting"),
               running = share(*vcpu, "running");
  // A halt that ends before the vCPU gets a CPU is one to the guest still, and a wait to the host.
  constexpr double kApart = 0.06;
  EXPECT_LT(idle, halted + kApart) << json::serialize(*vcpu);
  EXPECT_GT(idle, halted - waiting - kApart) << json::serialize(*vcpu);
  EXPECT_LT(running, 1 - halted + kApart) << json::serialize(*vcpu);
  EXPECT_GT(running, 1 - halted - waiting - kApart) << json::serialize(*vcpu);
}

// The page that it wants stayed at the source of a post-copy.
TEST_F(StallsOfKnownGuests, AVcpuThatWaitsForAPageIsTold) {
  VMWHY_NEEDS(userfaultfd);
  const TempDir dir;
  const std::string path = dir / "migration";
  QemuProcess source(dir, {.name = "source", .boot = "ring3_loop.elf", .memory_mb = 64, .oob = true});
  QemuProcess target(
      dir, {.name = "target", .boot = "ring3_loop.elf", .args = {"-incoming", "defer"}, .memory_mb = 64});
  source.cont();
  ASSERT_TRUE(wait_until([&] { return source.serial().starts_with("LMU"); }));
  target.cont();
  prepare_post_copy(source, target, path);
  StallsRun run(dir, target, {"--min-latency", "300ms"}, false);
  ASSERT_TRUE(lose_post_copy(source, target, path));
  EXPECT_TRUE(run.process().wait_line([](std::string_view line) {
    return line.find("vCPU 0 was blocked for") != std::string_view::npos &&
           line.find("in handle_userfault, for a page of its memory") != std::string_view::npos;
  })) << run.process().out();
}

TEST_F(StallsOfKnownGuests, AVcpuThatWaitsForTheBigLockIsTold) {
  VMWHY_NEEDS(qemu_symbols);
  const TempDir dir;
  const std::string fifo = dir / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  QemuProcess vm(dir, {.boot = "ports.bin"});
  vm.cont();
  ASSERT_TRUE(guest_runs(vm));
  StallsRun run(dir, vm, {"--min-latency", "20ms", "--top", "1000"}, false);
  // Nobody reads the pipe: the main loop stands in open(), and holds the lock that each access of a port
  // takes.
  vm.qmp().send("pmemsave", {{"val", 0}, {"size", 4096}, {"filename", fifo}});
  const auto for_the_lock = [](std::string_view line) {
    return line.find("vCPU 0 waited for QEMU's big lock for") != std::string_view::npos &&
           line.find("held by the main thread when it began to wait") != std::string_view::npos;
  };
  EXPECT_TRUE(run.process().wait_line(for_the_lock)) << run.process().out();
  EXPECT_TRUE(run.process().wait_line("the main thread was blocked for")) << run.process().out();
  const UniqueFd reader(::open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  ASSERT_TRUE(reader);
  EXPECT_TRUE(run.process().wait_line([&](std::string_view line) {
    return for_the_lock(line) && line.find("; it is over") != std::string_view::npos;
  })) << run.process().out();
  run.process().signal(SIGINT);
  ASSERT_TRUE(run.process().wait());
  bool told = false;
  for (const IncidentJson& incident : vm_why({run.trace()}))
    told |= is_verdict(incident, "qemu-main-loop-blocked", "proven") &&
            has_evidence(incident, "sched", "vCPU 0 waited for QEMU's big lock");
  EXPECT_TRUE(told) << run_program({binary("vm-why"), run.trace()}).out;
}

}  // namespace
}  // namespace vmwhy::test
