// SPDX-License-Identifier: BSD-2-Clause
// kvm-stalls on real QEMUs (TCG): a busy neighbour, a quota, SIGSTOP, SIGKILL, an idle guest.

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <boost/json.hpp>

#include "stalls_run.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/cgroup.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::test {
namespace {

namespace json = boost::json;

double all_shares(const json::object& of) {
  double sum = 0;
  for (const auto& each : of.at("shares").as_object()) sum += each.value().to_number<double>();
  return sum;
}

class StallsOfQemu : public ::testing::Test {
 protected:
  void SetUp() override {
    VMWHY_NEEDS(qemu);
    VMWHY_NEEDS(bpf);
  }
};

TEST_F(StallsOfQemu, BusyNeighbourIsNamed) {
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "busy.bin"});
  vm.cont();
  ASSERT_TRUE(guest_runs(vm));
  const int cpu = a_cpu();
  pin(vm.pid(), cpu);
  ChildProcess neighbour({"sh", "-c", "while :; do :; done"});
  pin(neighbour.pid(), cpu);
  StallsRun run(dir, vm, {"--min-latency", "1ms", "-d", "3s"});
  const json::object document = run.finish_by_itself();
  const json::object* vcpu = thread_of(document, "vcpu");
  ASSERT_NE(vcpu, nullptr);
  EXPECT_EQ(vcpu->at("vcpu").to_number<int>(), 0);
  EXPECT_GT(share(*vcpu, "waiting"), 0.3) << "two that never rest share one CPU";
  EXPECT_NEAR(share(*vcpu, "waiting") + share(*vcpu, "running"), 1, 0.05);
  EXPECT_NEAR(all_shares(*vcpu), 1, 0.001);
  std::uint64_t neighbours = 0;
  for (const json::value& culprit : vcpu->at("culprits").as_array())
    if (culprit.at("pid").to_number<std::int64_t>() == neighbour.pid())
      neighbours = culprit.at("ns").to_number<std::uint64_t>();
  // How much depends on what else the machine does.
  EXPECT_GT(neighbours, 1'000'000u) << json::serialize(*vcpu);
  EXPECT_TRUE(document.at("errors").as_array().empty()) << json::serialize(document.at("errors"));
}

TEST_F(StallsOfQemu, QuotaIsTold) {
  VMWHY_NEEDS(cpu_quota);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "busy.bin"});
  vm.cont();
  ASSERT_TRUE(guest_runs(vm));
  const CpuQuota quota(1'000, 100'000);
  quota.add(vm.pid());
  StallsRun run(dir, vm, {"--min-latency", "5ms", "-d", "3s"});
  const json::object document = run.finish_by_itself();
  const json::object* vcpu = thread_of(document, "vcpu");
  ASSERT_NE(vcpu, nullptr);
  EXPECT_GT(share(*vcpu, "throttled"), 0.4) << json::serialize(*vcpu);
  EXPECT_LT(share(*vcpu, "running"), 0.15);
  EXPECT_NEAR(all_shares(*vcpu), 1, 0.001);
}

TEST_F(StallsOfQemu, WhoStoppedItIsNamedWhileItStandsStill) {
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "busy.bin"});
  vm.cont();
  ASSERT_TRUE(guest_runs(vm));
  StallsRun run(dir, vm, {"--min-latency", "200ms", "--top", "1000"}, false);
  vm.process().signal(SIGSTOP);
  EXPECT_TRUE(run.process().wait_line("SIGSTOP to process " + std::to_string(vm.pid())));
  // Told before it ends, and again when it is ten times as long.
  EXPECT_TRUE(run.process().wait_line("vCPU 0 was stopped by a signal or a tracer")) << run.process().out();
  EXPECT_TRUE(run.process().wait_line("vCPU 0 was stopped by a signal or a tracer")) << run.process().out();
  vm.process().signal(SIGCONT);
  EXPECT_TRUE(run.process().wait_line("; it is over")) << run.process().out();
  run.process().signal(SIGINT);
  ASSERT_TRUE(run.process().wait());
}

TEST_F(StallsOfQemu, ActsOnASignalAndOnAStallAndEnds) {
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "busy.bin"});
  vm.cont();
  ASSERT_TRUE(guest_runs(vm));
  const std::string log = dir / "log";
  const std::string command = "exec echo \"$VMWHY_VM_PID $VMWHY_CONDITION $VMWHY_SUMMARY\" >>" + log;
  StallsRun run(dir, vm,
                {"--min-latency", "100ms", "--on", "signal=SIGSTOP", "--then", command, "--on",
                 "stall=stopped", "--then", "exit"});
  vm.process().signal(SIGSTOP);
  run.finish_by_itself();
  EXPECT_NE(run.process().err().find("'stall=stopped' was seen"), std::string::npos) << run.process().err();
  // The command is not waited for.
  EXPECT_TRUE(wait_until([&] { return read_file(log).find('\n') != std::string::npos; }));
  EXPECT_EQ(read_file(log).find(std::to_string(vm.pid()) + " signal=SIGSTOP SIGSTOP to process"), 0u)
      << read_file(log);
  vm.process().signal(SIGCONT);
}

TEST_F(StallsOfQemu, WhoKilledItIsNamed) {
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  const std::string trace = dir / "killed.vmt";
  StallsRun run(dir, vm, {"-o", trace});
  vm.process().signal(SIGKILL);
  const json::object document = run.finish_by_itself();
  ASSERT_EQ(document.at("signals").as_array().size(), 1u);
  EXPECT_EQ(document.at("signals").at(0).at("sender_pid").to_number<std::int64_t>(), ::getpid());
  // Its threads' last times are told after its end, and are its own still.
  const std::string times = run_program({binary("vm-trace"), "cat", "--type", "thread_time", trace}).out;
  EXPECT_NE(times.find(" vm1 thread_time"), std::string::npos) << times;
  EXPECT_EQ(times.find(" host thread_time"), std::string::npos) << times;
}

TEST_F(StallsOfQemu, AStoppedGuestHasNoStallsButThoseOfTheHost) {
  const TempDir dir;
  // It never runs: all its threads have nothing to do.
  QemuProcess vm(dir, {.boot = "idle.bin"});
  StallsRun run(dir, vm, {"-d", "3s"});
  const json::object document = run.finish_by_itself();
  const json::object* vcpu = thread_of(document, "vcpu");
  ASSERT_NE(vcpu, nullptr);
  EXPECT_GT(share(*vcpu, "idle"), 0.9) << json::serialize(*vcpu);
  for (const json::value& stall : document.at("stalls").as_array()) {
    // A loaded machine may let a thread wait for its CPU; nothing else is a stall here.
    EXPECT_GT(share(stall.as_object(), "waiting"), 0.5) << json::serialize(stall);
  }
}

TEST_F(StallsOfQemu, AVcpuThatIsNotThereIsRefused) {
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  ChildProcess run(ChildProcess::Options{
      .args = {binary("kvm-stalls"), "-p", std::to_string(vm.pid()), "--vcpu", "99", "-d", "10m"}});
  const auto status = run.wait();
  ASSERT_TRUE(status);
  EXPECT_EQ(status->code, 3);
  EXPECT_EQ(run.err(), "kvm-stalls: no vCPU 99 here: there is only 0\n");
}

TEST_F(StallsOfQemu, AVcpuThatIsPluggedLaterIsWatched) {
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin", .args = {"-smp", "1,sockets=2,cores=1,threads=1,maxcpus=2"}});
  vm.cont();
  ASSERT_TRUE(guest_runs(vm));
  StallsRun run(dir, vm, {"-i", "100ms"}, false);
  const json::object plugged = vm.call(
      "device_add",
      {{"driver", "qemu64-x86_64-cpu"}, {"id", "cpu1"}, {"socket-id", 1}, {"core-id", 0}, {"thread-id", 0}});
  EXPECT_EQ(plugged.if_contains("error"), nullptr) << json::serialize(plugged);
  EXPECT_TRUE(run.process().wait_line("  vCPU 1 ")) << run.process().out();
  run.process().signal(SIGINT);
  ASSERT_TRUE(run.process().wait());
  EXPECT_EQ(run.process().out().find("wrong:"), std::string::npos) << run.process().out();
}

TEST_F(StallsOfQemu, VeryManyVcpusAreAllListed) {
  constexpr int kVcpus = 200;
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin", .args = {"-smp", std::to_string(kVcpus)}, .memory_mb = 64});
  StallsRun run(dir, vm, {"-d", "1s"});
  const json::object document = run.finish_by_itself();
  int vcpus = 0;
  for (const json::value& thread : document.at("threads").as_array()) {
    if (thread.at("role").as_string() != "vcpu") continue;
    ++vcpus;
    EXPECT_NEAR(all_shares(thread.as_object()), 1, 0.001);
  }
  EXPECT_EQ(vcpus, kVcpus);
  EXPECT_TRUE(document.at("errors").as_array().empty());
}

TEST_F(StallsOfQemu, SaysWhereItDoesNotKnowTheVcpus) {
  const TempDir dir;
  // The later -name wins: QEMU leaves its threads' names alone.
  QemuProcess vm(dir, {.boot = "idle.bin", .args = {"-name", "plain,debug-threads=off"}});
  StallsRun run(dir, vm, {"-d", "1s"});
  const json::object document = run.finish_by_itself();
  EXPECT_EQ(thread_of(document, "vcpu"), nullptr);
  EXPECT_NE(json::serialize(document.at("notes")).find("are vCPUs is not known"), std::string::npos);
}

}  // namespace
}  // namespace vmwhy::test
