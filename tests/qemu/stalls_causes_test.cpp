// SPDX-License-Identifier: BSD-2-Clause
// Stalls made for real, recorded by kvm-stalls -o, and judged by vm-why from the trace alone: cause,
// confidence, culprit.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <sstream>

#include "core/unique_fd.hpp"
#include "stalls_run.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/cgroup.hpp"
#include "tests/support/fuse_disk.hpp"
#include "tests/support/loop_device.hpp"
#include "tests/support/mount.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

namespace json = boost::json;

class StallsCauses : public ::testing::Test {
 protected:
  void SetUp() override {
    VMWHY_NEEDS(qemu);
    VMWHY_NEEDS(bpf);
  }
};

/// Time on a CPU, ns.
std::uint64_t run_time(pid_t pid) {
  std::uint64_t out = 0;
  std::istringstream(read_file("/proc/" + std::to_string(pid) + "/schedstat")) >> out;
  return out;
}

/// The incident of that cause; empty, and a failure with all of them, where there is none.
IncidentJson incident_of(const std::vector<IncidentJson>& incidents, std::string_view cause) {
  for (const IncidentJson& incident : incidents)
    if (text_of(incident, "cause") == cause) return incident;
  std::string all;
  for (const IncidentJson& incident : incidents) all += json::serialize(incident) + "\n";
  ADD_FAILURE() << "no " << cause << " among:\n" << all;
  return {};
}

bool has_cause(const std::vector<IncidentJson>& incidents, std::string_view cause) {
  return std::any_of(incidents.begin(), incidents.end(),
                     [&](const IncidentJson& incident) { return text_of(incident, "cause") == cause; });
}

std::int64_t detail(const IncidentJson& incident, std::string_view key) {
  const json::value* details = incident.if_contains("details");
  const json::value* value = details ? details->as_object().if_contains(key) : nullptr;
  return value && value->is_number() ? value->to_number<std::int64_t>() : -1;
}

std::string detail_text(const IncidentJson& incident, std::string_view key) {
  const json::value* details = incident.if_contains("details");
  const json::value* value = details ? details->as_object().if_contains(key) : nullptr;
  return value && value->is_string() ? std::string(value->as_string()) : "";
}

/// Its time among the culprits of a verdict or of a thread, ns.
std::uint64_t time_of(const json::object& of, pid_t pid) {
  std::uint64_t out = 0;
  if (const json::value* culprits = of.if_contains("culprits"))
    for (const json::value& culprit : culprits->as_array())
      if (culprit.at("pid").to_number<std::int64_t>() == pid)
        out += culprit.at("ns").to_number<std::uint64_t>();
  return out;
}

TEST_F(StallsCauses, BusyNeighbourIsTheCulpritByTheTimeItRan) {
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "busy.bin"});
  vm.cont();
  ASSERT_TRUE(guest_runs(vm));
  const int cpu = a_cpu();
  pin(vm.pid(), cpu);
  StallsRun run(dir, vm, {"--min-latency", "1ms"});
  ChildProcess neighbour({"taskset", "-c", std::to_string(cpu), "sh", "-c", "while :; do :; done"});
  ASSERT_TRUE(wait_until([&] { return run_time(neighbour.pid()) > 1'000'000'000; }));
  neighbour.signal(SIGSTOP);
  ASSERT_TRUE(wait_until([&] {
    return read_file("/proc/" + std::to_string(neighbour.pid()) + "/stat").find(") T ") != std::string::npos;
  }));
  const auto ran = static_cast<double>(run_time(neighbour.pid()));
  run.process().signal(SIGINT);
  const json::object document = run.finish_by_itself();

  // The vCPU never sleeps: whenever the neighbour ran, it waited.
  const json::object* vcpu = thread_of(document, "vcpu");
  ASSERT_NE(vcpu, nullptr);
  EXPECT_NEAR(static_cast<double>(time_of(*vcpu, neighbour.pid())), ran, ran * 0.05 + 2e7)
      << json::serialize(*vcpu);

  const IncidentJson stall = incident_of(vm_why({run.trace()}), "host-cpu-contention");
  ASSERT_FALSE(stall.empty());
  EXPECT_TRUE(is_verdict(stall, "host-cpu-contention", "proven"));
  const std::uint64_t blamed = time_of(stall.at("details").as_object(), neighbour.pid());
  EXPECT_LT(static_cast<double>(blamed), ran * 1.05 + 2e7);
  // Waits below the threshold are no stalls, and of very many stalls a verdict leaves some out.
  EXPECT_GT(static_cast<double>(blamed), ran * 0.15) << json::serialize(stall);
}

TEST_F(StallsCauses, QuotaIsNamedWithItsCgroup) {
  VMWHY_NEEDS(cpu_quota);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "busy.bin"});
  vm.cont();
  ASSERT_TRUE(guest_runs(vm));
  const CpuQuota quota(1'000, 100'000);
  quota.add(vm.pid());
  StallsRun run(dir, vm, {"--min-latency", "20ms", "-d", "4s"});
  run.finish_by_itself();
  const IncidentJson stall = incident_of(vm_why({run.trace()}), "host-cpu-quota");
  ASSERT_FALSE(stall.empty());
  EXPECT_TRUE(is_verdict(stall, "host-cpu-quota", "proven"));
  EXPECT_EQ(detail(stall, "quota_us"), 1'000);
  EXPECT_EQ(detail(stall, "period_us"), 100'000);
  EXPECT_NE(detail_text(stall, "cgroup").find("vmwhy-test-"), std::string::npos) << json::serialize(stall);
  EXPECT_TRUE(has_evidence(stall, "cgroup", "throttled in"));
  // One of a hundred milliseconds is its own; the rest of each stall is the quota's.
  EXPECT_GT(detail(stall, "total_ns"), 1'000'000'000) << json::serialize(stall);
}

TEST_F(StallsCauses, WhoSentSigstopIsNamed) {
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "busy.bin"});
  vm.cont();
  ASSERT_TRUE(guest_runs(vm));
  StallsRun run(dir, vm, {"--min-latency", "200ms", "--top", "1000"}, false);
  ChildProcess sender({"sh", "-c", "kill -STOP " + std::to_string(vm.pid())});
  EXPECT_TRUE(run.process().wait_line("vCPU 0 was stopped by a signal")) << run.process().out();
  // It stands already: this one did not stop it.
  vm.process().signal(SIGSTOP);
  EXPECT_TRUE(run.process().wait_line("vCPU 0 was stopped by a signal")) << run.process().out();
  vm.process().signal(SIGCONT);
  EXPECT_TRUE(run.process().wait_line("; it is over")) << run.process().out();
  run.process().signal(SIGINT);
  ASSERT_TRUE(run.process().wait());
  const IncidentJson stall = incident_of(vm_why({run.trace()}), "host-frozen");
  ASSERT_FALSE(stall.empty());
  EXPECT_TRUE(is_verdict(stall, "host-frozen", "proven"));
  EXPECT_EQ(detail(stall, "sender_pid"), sender.pid()) << json::serialize(stall);
  EXPECT_EQ(detail_text(stall, "sender_comm"), "sh");
  EXPECT_FALSE(stall.at("end_ns").is_null());
  EXPECT_TRUE(has_remedy(stall, "CONT"));
}

TEST_F(StallsCauses, FreezerIsToldFromASignal) {
  VMWHY_NEEDS(freezer_v1);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "busy.bin"});
  const Freezer group(Freezer::Version::v1);
  group.add(vm.pid());
  vm.cont();
  ASSERT_TRUE(guest_runs(vm));
  StallsRun run(dir, vm, {"--min-latency", "200ms", "--top", "1000"}, false);
  group.freeze();
  // Before Linux 6.1 such a thread is in D, and only the group's own file tells.
  const auto stands = [](std::string_view line) {
    return line.find("vCPU 0 was frozen by its cgroup") != std::string_view::npos ||
           line.find("vCPU 0 was blocked in D") != std::string_view::npos;
  };
  // Told when it crosses the threshold, and at ten times that: by then the group was looked at.
  EXPECT_TRUE(run.process().wait_line(stands)) << run.process().out();
  EXPECT_TRUE(run.process().wait_line(stands)) << run.process().out();
  group.thaw();
  EXPECT_TRUE(run.process().wait_line("; it is over")) << run.process().out();
  run.process().signal(SIGINT);
  ASSERT_TRUE(run.process().wait());
  const IncidentJson stall = incident_of(vm_why({run.trace()}), "host-frozen");
  ASSERT_FALSE(stall.empty());
  EXPECT_TRUE(is_verdict(stall, "host-frozen", "proven"));
  EXPECT_EQ(detail_text(stall, "how"), "freezer") << json::serialize(stall);
  EXPECT_EQ(detail(stall, "sender_pid"), -1);
  const std::string name = group.path().substr(group.path().rfind('/') + 1);
  EXPECT_TRUE(has_evidence(stall, "cgroup", name));
}

TEST_F(StallsCauses, MainLoopThatOpensAPipeIsBlockedThere) {
  const TempDir dir;
  const std::string fifo = dir / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  QemuProcess vm(dir, {.boot = "idle.bin"});
  vm.cont();
  ASSERT_TRUE(guest_runs(vm));
  StallsRun run(dir, vm, {"--min-latency", "20ms", "--top", "1000"}, false);
  // Nobody reads the pipe: the command does not come back from open().
  vm.qmp().send("pmemsave", {{"val", 0}, {"size", 4096}, {"filename", fifo}});
  EXPECT_TRUE(run.process().wait_line("the main thread was blocked")) << run.process().out();
  const UniqueFd reader(::open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  ASSERT_TRUE(reader);
  EXPECT_TRUE(run.process().wait_line([](std::string_view line) {
    return line.find("the main thread was blocked") != std::string_view::npos &&
           line.find("; it is over") != std::string_view::npos;
  })) << run.process().out();
  run.process().signal(SIGINT);
  ASSERT_TRUE(run.process().wait());
  const IncidentJson stall = incident_of(vm_why({run.trace()}), "qemu-main-loop-blocked");
  ASSERT_FALSE(stall.empty());
  EXPECT_TRUE(is_verdict(stall, "qemu-main-loop-blocked", "proven"));
  EXPECT_EQ(detail(stall, "thread"), vm.pid());
  EXPECT_EQ(detail_text(stall, "system_call"), "openat") << json::serialize(stall);
}

TEST_F(StallsCauses, WorkerWhoseWriteDoesNotComeBackHangsInTheStorage) {
  VMWHY_NEEDS(fuse);
  const TempDir dir;
  FuseDisk fuse(dir.path() / "fuse");
  QemuProcess vm(dir,
                 {.boot = "writer.bin", .args = disk(fuse.file(), "raw", "file", "locking=off,aio=threads")});
  vm.cont();
  ASSERT_TRUE(wait_until([&] { return vm.serial().find('.') != std::string::npos; }));
  StallsRun run(dir, vm, {"--min-latency", "15ms", "--top", "1000", "--syscall-probes"}, false);
  fuse.hang_data();
  // A worker's threshold is a hundred times that of a vCPU.
  EXPECT_TRUE(run.process().wait_line([&](std::string_view line) {
    return line.find(fuse.file()) != std::string_view::npos && line.find(" s in ") != std::string_view::npos;
  })) << run.process().out();
  run.process().signal(SIGINT);
  ASSERT_TRUE(run.process().wait());
  fuse.let_go();
  const IncidentJson stall = incident_of(vm_why({run.trace()}), "storage-hang");
  ASSERT_FALSE(stall.empty());
  EXPECT_TRUE(is_verdict(stall, "storage-hang", "proven"));
  EXPECT_EQ(detail_text(stall, "path"), fuse.file()) << json::serialize(stall);
  EXPECT_NE(detail_text(stall, "system_call"), "") << json::serialize(stall);
  // The request itself is in the trace, as it hangs.
  const std::string requests =
      run_program({binary("vm-trace"), "cat", "--type", "io_syscall", run.trace()}).out;
  EXPECT_NE(requests.find(fuse.file()), std::string::npos) << requests;
}

TEST_F(StallsCauses, WhoSentSigkillIsNamed) {
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  StallsRun run(dir, vm, {});
  ChildProcess killer({"sh", "-c", "kill -KILL " + std::to_string(vm.pid())});
  run.finish_by_itself();
  const IncidentJson end = incident_of(vm_why({run.trace()}), "qemu-killed");
  ASSERT_FALSE(end.empty());
  EXPECT_TRUE(is_verdict(end, "qemu-killed", "proven"));
  EXPECT_EQ(detail(end, "sender_pid"), killer.pid()) << json::serialize(end);
  EXPECT_EQ(detail_text(end, "sender_comm"), "sh");
}

TEST_F(StallsCauses, WhoAskedItToEndIsNamedButNotProven) {
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  StallsRun run(dir, vm, {});
  ChildProcess sender({"sh", "-c", "kill -TERM " + std::to_string(vm.pid())});
  run.finish_by_itself();
  const IncidentJson end = incident_of(vm_why({run.trace()}), "qemu-killed");
  ASSERT_FALSE(end.empty());
  EXPECT_TRUE(is_verdict(end, "qemu-killed", "likely"));
  EXPECT_EQ(detail(end, "sender_pid"), sender.pid()) << json::serialize(end);
}

TEST_F(StallsCauses, GuestThatPowersOffWasNotKilled) {
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "shutdown.bin"});
  StallsRun run(dir, vm, {});
  vm.cont();
  run.finish_by_itself();
  const std::vector<IncidentJson> incidents = vm_why({run.trace()});
  EXPECT_FALSE(has_cause(incidents, "qemu-killed"));
  EXPECT_FALSE(has_cause(incidents, "host-oom-kill"));
  const IncidentJson end = incident_of(incidents, "qemu-exited");
  ASSERT_FALSE(end.empty());
  EXPECT_EQ(detail(end, "status"), 0);
  EXPECT_TRUE(rules_out(end, "qemu-killed"));
}

TEST_F(StallsCauses, OomKillInACgroupIsTheKernels) {
  VMWHY_NEEDS(memory_limit);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  const MemoryLimit limit(32u << 20);
  limit.add(vm.pid());
  StallsRun run(dir, vm, {});
  vm.qmp().send(
      "object-add",
      {{"qom-type", "memory-backend-ram"}, {"id", "big"}, {"size", 256u << 20}, {"prealloc", true}});
  run.finish_by_itself();
  const IncidentJson end = incident_of(vm_why({run.trace()}), "host-oom-kill");
  ASSERT_FALSE(end.empty());
  EXPECT_TRUE(is_verdict(end, "host-oom-kill", "proven"));
  EXPECT_EQ(detail(end, "limit_bytes"), 32 << 20) << json::serialize(end);
  EXPECT_NE(detail_text(end, "cgroup").find("vmwhy-test-"), std::string::npos);
  EXPECT_TRUE(has_evidence(end, "signal", "mark_victim"));
}

TEST_F(StallsCauses, MemoryLimitMakesTheMainThreadReclaim) {
  VMWHY_NEEDS(ext4);
  VMWHY_NEEDS(memory_limit);
  const TempDir dir;
  const std::string image = dir.sparse("ext4", 512 << 20);
  ASSERT_EQ(run_program({"mkfs.ext4", "-q", "-F", image}).status.code, 0);
  const LoopDevice loop(image);
  const Mount ext4(loop.path(), dir.path() / "fs", "ext4");
  QemuProcess vm(dir, {.boot = "idle.bin", .memory_mb = 256});
  const MemoryLimit limit(32u << 20);
  limit.add(vm.pid());
  StallsRun run(dir, vm, {"--min-latency", "100us", "--top", "1000"}, false);
  // What it writes stays in the group's memory until it is on the disk: the writer has to wait for that.
  vm.qmp().send("pmemsave", {{"val", 0}, {"size", 256 << 20}, {"filename", ext4 / "memory"}});
  EXPECT_TRUE(run.process().wait_line("the main thread waited for memory")) << run.process().out();
  run.process().signal(SIGINT);
  ASSERT_TRUE(run.process().wait());
  const IncidentJson stall = incident_of(vm_why({run.trace()}), "host-memory-pressure");
  ASSERT_FALSE(stall.empty());
  EXPECT_TRUE(is_verdict(stall, "host-memory-pressure", "proven"));
  EXPECT_EQ(detail(stall, "limit_bytes"), 32 << 20) << json::serialize(stall);
  EXPECT_NE(detail_text(stall, "cgroup").find("vmwhy-test-"), std::string::npos);
  EXPECT_TRUE(has_evidence(stall, "sched", "waited for memory"));
}

TEST_F(StallsCauses, IdleGuestGivesNoFalseAlarm) {
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  vm.cont();
  ASSERT_TRUE(guest_runs(vm));
  StallsRun run(dir, vm, {"-d", "20s"});
  const json::object document = run.finish_by_itself();
  const json::object* vcpu = thread_of(document, "vcpu");
  ASSERT_NE(vcpu, nullptr);
  EXPECT_GT(share(*vcpu, "idle") + share(*vcpu, "halted"), 0.9) << json::serialize(*vcpu);
  // A loaded machine may let it wait for a CPU, or for QEMU's lock whose holder waits for one, and then that
  // is so; nothing else may be a stall here, and no other cause may be given for it.
  for (const json::value& stall : document.at("stalls").as_array())
    EXPECT_GT(share(stall.as_object(), "waiting") + share(stall.as_object(), "lock"), 0.5)
        << json::serialize(stall);
  for (const IncidentJson& incident : vm_why({run.trace()}))
    EXPECT_TRUE(text_of(incident, "cause") == "host-cpu-contention" ||
                text_of(incident, "cause") == "unknown")
        << json::serialize(incident);
}

}  // namespace
}  // namespace vmwhy::test
