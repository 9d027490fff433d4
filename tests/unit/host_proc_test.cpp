// SPDX-License-Identifier: BSD-2-Clause
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "host/cgroup.hpp"
#include "host/pressure.hpp"
#include "host/process.hpp"
#include "host/thermal.hpp"
#include "host/threads.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"
#include "trace/thread_records.hpp"

namespace vmwhy::host {
namespace {

std::string put(const test::TempDir& dir, const std::string& name, std::string_view content) {
  std::filesystem::create_directories((dir.path() / name).parent_path());
  return dir.write(name, content);
}

TEST(HostThermal, TellsOfCpusWhoseCountersGrew) {
  const test::TempDir dir;
  const auto counters = [&](const std::string& cpu, const std::string& core, const std::string& ms) {
    const std::string folder = cpu + "/thermal_throttle/";
    put(dir, folder + "core_throttle_count", core + "\n");
    put(dir, folder + "package_throttle_count", "7\n");
    put(dir, folder + "core_throttle_total_time_ms", ms + "\n");
  };
  counters("cpu0", "3", "10");
  counters("cpu11", "3", "10");
  put(dir, "cpu2/online", "1\n");
  put(dir, "cpufreq/thermal_throttle/core_throttle_count", "1\n");
  ThermalWatch watch(dir.path().string());
  EXPECT_TRUE(watch.available());
  EXPECT_TRUE(watch.look(1).empty());
  counters("cpu11", "8", "260");
  const auto records = watch.look(2'000'000'001);
  ASSERT_EQ(records.size(), 1u);
  const auto record = records.front().view().as<trace::CpuThrottle>();
  EXPECT_EQ(record.cpu, 11u);
  EXPECT_EQ(record.core_events, 5u);
  EXPECT_EQ(record.core_ms, 250u);
  EXPECT_EQ(record.package_events, 0u);
  EXPECT_EQ(record.window_ns, 2'000'000'000u);
  // Offline and back: what it had counted before is nothing new.
  std::filesystem::rename(dir.path() / "cpu11", dir.path() / "gone");
  EXPECT_TRUE(watch.look(3'000'000'000).empty());
  std::filesystem::rename(dir.path() / "gone", dir.path() / "cpu11");
  EXPECT_TRUE(watch.look(4'000'000'000).empty());
  EXPECT_FALSE(ThermalWatch((dir.path() / "nothing").string()).available());
}

TEST(HostStat, ReadsCommWithSpacesAndParentheses) {
  const auto stat = parse_stat(
      "42 (CPU 0) (KVM) x) D 7 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 5 0 12345 99999 300 "
      "18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 9\n");
  ASSERT_TRUE(stat);
  EXPECT_EQ(stat->pid, 42u);
  EXPECT_EQ(stat->comm, "CPU 0) (KVM) x");
  EXPECT_EQ(stat->state, 'D');
  EXPECT_EQ(stat->ppid, 7u);
  EXPECT_EQ(stat->cpu_ns, 3'000'000'000u);
  EXPECT_EQ(stat->threads, 5u);
  EXPECT_EQ(stat->start_ns, 123'450'000'000u);
  EXPECT_EQ(stat->rss_bytes, 300u * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)));
  EXPECT_EQ(stat->exit_code, 9);
}

TEST(HostStat, RefusesWhatIsNoStatLine) {
  for (const char* text :
       {"", "42", "42 (x", "42 (x) ", "42 (x) D 7", "x (y) D 1 2 3", ") (", "42 (x) DD 7 8 9"})
    EXPECT_FALSE(parse_stat(text)) << text;
}

TEST(HostProcess, SeesItselfRunAndAProcessGone) {
  const ProcessWatch self(static_cast<std::uint32_t>(::getpid()));
  const auto record = self.record(5, 3);
  const auto state = record.view().as<trace::ProcessState>();
  EXPECT_EQ(record.header.time_ns, 5u);
  EXPECT_EQ(record.header.vm, 3u);
  EXPECT_EQ(state.state, static_cast<std::uint32_t>('R'));
  EXPECT_GT(state.rss_bytes, 0u);

  test::ChildProcess child({"sleep", "600"});
  const ProcessWatch watch(static_cast<std::uint32_t>(child.pid()));
  ASSERT_TRUE(watch.sample());
  child.signal(SIGKILL);
  ASSERT_TRUE(child.wait());
  EXPECT_FALSE(watch.sample());
  EXPECT_EQ(watch.record(1, 1).view().as<trace::ProcessState>().state, 0u);
}

TEST(HostProcess, SeesAStoppedProcess) {
  test::ChildProcess child({"sleep", "600"});
  const ProcessWatch watch(static_cast<std::uint32_t>(child.pid()));
  child.signal(SIGSTOP);
  EXPECT_TRUE(test::wait_until([&] { return watch.sample() && watch.sample()->state == 'T'; }));
}

TEST(HostProcess, TakesTracerAndPendingSignalsFromStatus) {
  const test::TempDir dir;
  put(dir, "9/stat", "9 (q) t 1 9 9 0 -1 0 0 0 0 0 1 1 0 0 20 0 3 0 100 1 1 0");
  put(dir, "9/status", "Name:\tq\nTracerPid:\t77\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000004002\n");
  put(dir, "77/comm", "gdb\n");
  const auto record = ProcessWatch(9, dir.path().string()).record(0, 1);
  const auto state = record.view().as<trace::ProcessState>();
  EXPECT_EQ(state.state, static_cast<std::uint32_t>('t'));
  EXPECT_EQ(state.tracer_pid, 77u);
  EXPECT_STREQ(state.tracer_comm, "gdb");
  EXPECT_EQ(state.pending, 0x100u);
  EXPECT_EQ(state.shared_pending, 0x4002u);
  EXPECT_EQ(record.text, "q");
}

TEST(HostThreads, RecordsRoleWchanSyscallStackAndTimes) {
  const test::TempDir dir;
  put(dir, "9/task/11/stat", "11 (CPU 0/KVM) D 1 9 9 0 -1 0 0 0 0 0 1 1 0 0 20 0 3 0 100 1 1 0");
  put(dir, "9/task/11/syscall", "18 0x1f 0x2\n");
  std::filesystem::create_directories(dir.path() / "9/fd");
  std::filesystem::create_symlink("/images/d.raw", dir.path() / "9/fd/31");
  put(dir, "9/task/11/wchan", "wait_on_page_bit");
  put(dir, "9/task/11/stack", "[<0>] a+0x1\n[<0>] b+0x2\n");
  put(dir, "9/task/11/schedstat", "123456789 55 7\n");
  put(dir, "9/task/11/status", "voluntary_ctxt_switches:\t10\nnonvoluntary_ctxt_switches:\t3\n");
  put(dir, "9/task/9/stat", "9 (q) S 1 9 9 0 -1 0 0 0 0 0 1 1 0 0 20 0 3 0 100 1 1 0");
  put(dir, "9/task/9/syscall", "running\n");
  put(dir, "9/task/9/wchan", "0");
  const Roles roles{{11, {trace::ThreadRole::vcpu, 0}}};
  const auto records = thread_records(9, roles, 1, 2, 100, dir.path().string());
  ASSERT_EQ(records.size(), 2u);
  const auto main = records[0].view().as<trace::ThreadState>();
  EXPECT_EQ(main.tid, 9u);
  EXPECT_EQ(main.role, static_cast<std::uint32_t>(trace::ThreadRole::main));
  EXPECT_EQ(main.syscall, -1);
  EXPECT_EQ(trace::text_field(records[0].text, 1), "");
  const auto vcpu = records[1].view().as<trace::ThreadState>();
  EXPECT_EQ(vcpu.role, static_cast<std::uint32_t>(trace::ThreadRole::vcpu));
  EXPECT_EQ(vcpu.vcpu, 0);
  EXPECT_EQ(vcpu.syscall, 18);
  EXPECT_EQ(vcpu.cpu_ns, 123456789u);
  EXPECT_EQ(vcpu.run_delay_ns, 55u);
  EXPECT_EQ(vcpu.switches, 13u);
  EXPECT_EQ(trace::text_field(records[1].text, 0), "CPU 0/KVM");
  EXPECT_EQ(trace::text_field(records[1].text, 1), "wait_on_page_bit");
  EXPECT_EQ(trace::text_field(records[1].text, 2), "[<0>] a+0x1\n[<0>] b+0x2\n");
  EXPECT_EQ(trace::text_field(records[1].text, 3), "/images/d.raw");
}

TEST(HostThreads, SamplesItsOwnThreads) {
  const auto samples = sample_threads(static_cast<std::uint32_t>(::getpid()));
  ASSERT_FALSE(samples.empty());
  EXPECT_EQ(samples.front().tid, static_cast<std::uint32_t>(::getpid()));
  EXPECT_TRUE(sample_threads(0x7fffffff).empty());
}

TEST(HostPressure, ReadsTotalsAndAverages) {
  const auto file = parse_pressure(
      "some avg10=12.34 avg60=0.00 avg300=0.00 total=567\nfull avg10=0.05 avg60=0.00 avg300=0.00 total=8\n");
  EXPECT_EQ(file.some.total_us, 567u);
  EXPECT_EQ(file.some.avg10, 1234u);
  EXPECT_EQ(file.full.total_us, 8u);
  EXPECT_EQ(file.full.avg10, 5u);
}

TEST(HostPressure, MissingFilesAreAFailureThatNamesThem) {
  const auto record = host_pressure(1, "/nonexistent");
  ASSERT_FALSE(record);
  EXPECT_NE(to_string(record.error()).find("/nonexistent/pressure/cpu"), std::string::npos);
}

constexpr const char* kHybridMounts =
    "30 20 0:26 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"
    "31 20 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 20 0:28 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n"
    "33 20 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

TEST(HostCgroup, FindsTheFoldersOfAHybrid) {
  const auto mounts = parse_cgroup_mounts(kHybridMounts);
  const auto place =
      locate_cgroup("7:memory:/vm/a\n6:freezer:/ice\n1:cpu,cpuacct:/vm/a\n0::/user.slice\n", mounts);
  EXPECT_EQ(place.memory, "/sys/fs/cgroup/memory/vm/a");
  EXPECT_TRUE(place.memory_is_v1);
  EXPECT_EQ(place.cpu, "/sys/fs/cgroup/cpu,cpuacct/vm/a");
  EXPECT_EQ(place.freezer_v1, "/sys/fs/cgroup/freezer/ice");
  EXPECT_EQ(place.unified, "/sys/fs/cgroup/unified/user.slice");
  EXPECT_EQ(place.path, "/user.slice");
}

TEST(HostCgroup, TakesTheTightestLimitUpToTheRootInVersionTwo) {
  const test::TempDir dir;
  const std::string root = dir / "cg";
  put(dir, "cg/cgroup.procs", "");
  put(dir, "cg/slice/memory.max", "1000\n");
  put(dir, "cg/slice/cpu.max", "50000 100000\n");
  put(dir, "cg/slice/cpu.stat", "nr_throttled 4\nthrottled_usec 900\n");
  put(dir, "cg/slice/vm/memory.max", "max\n");
  put(dir, "cg/slice/vm/memory.current", "700\n");
  put(dir, "cg/slice/vm/memory.events", "low 0\noom 3\noom_kill 2\n");
  put(dir, "cg/slice/vm/cpu.max", "max 100000\n");
  put(dir, "cg/slice/vm/cpu.stat", "nr_throttled 1\nthrottled_usec 100\n");
  put(dir, "cg/slice/vm/cgroup.events", "populated 1\nfrozen 1\n");
  put(dir, "9/cgroup", "0::/slice/vm\n");
  CgroupMounts mounts;
  mounts.unified = root;
  const CgroupWatch watch(9, mounts, dir.path().string());
  const auto record = watch.record(1, 2);
  const auto state = record.view().as<trace::CgroupState>();
  EXPECT_EQ(state.version, 2u);
  EXPECT_EQ(state.memory_current_bytes, 700u);
  EXPECT_EQ(state.memory_max_bytes, 1000u);
  EXPECT_EQ(state.oom_kills, 2u);
  EXPECT_EQ(state.quota_us, 50000);
  EXPECT_EQ(state.period_us, 100000u);
  EXPECT_EQ(state.throttled_periods, 5u);
  EXPECT_EQ(state.throttled_us, 1000u);
  EXPECT_EQ(state.freezer, static_cast<std::uint32_t>(trace::FreezerState::frozen));
  EXPECT_EQ(record.text, "/slice/vm");
}

TEST(HostCgroup, NamesTheGroupsOfControllersThatHaveTheirOwn) {
  const test::TempDir dir;
  put(dir, "9/cgroup", "7:memory:/m\n6:freezer:/ice\n4:cpu:/c/a\n");
  CgroupMounts mounts;
  for (const char* controller : {"memory", "freezer", "cpu"}) mounts.v1[controller] = dir / controller;
  const auto record = CgroupWatch(9, mounts, dir.path().string()).record(0, 0);
  EXPECT_EQ(trace::text_field(record.text, 0), "/ice");
  EXPECT_EQ(trace::text_field(record.text, 1), "/c/a");
  EXPECT_EQ(trace::text_field(record.text, 2), "/m");
}

TEST(HostCgroup, NoticesThatAProcessWasMovedIntoAFrozenGroup) {
  const test::TempDir dir;
  put(dir, "fr/a/freezer.state", "THAWED\n");
  put(dir, "fr/b/freezer.state", "FROZEN\n");
  put(dir, "9/cgroup", "6:freezer:/a\n");
  CgroupMounts mounts;
  mounts.v1["freezer"] = dir / "fr";
  CgroupWatch watch(9, mounts, dir.path().string());
  EXPECT_EQ(watch.freezer(), trace::FreezerState::thawed);
  put(dir, "9/cgroup", "6:freezer:/b\n");
  watch.refresh();
  EXPECT_EQ(watch.freezer(), trace::FreezerState::frozen);
}

TEST(HostCgroup, NoLimitIsTheLargestNumber) {
  const test::TempDir dir;
  put(dir, "mem/a/memory.limit_in_bytes", "9223372036854771712\n");
  put(dir, "9/cgroup", "7:memory:/a\n");
  CgroupMounts mounts;
  mounts.v1["memory"] = dir / "mem";
  const auto state = CgroupWatch(9, mounts, dir.path().string()).record(0, 0).view().as<trace::CgroupState>();
  EXPECT_EQ(state.memory_max_bytes, UINT64_MAX);
  EXPECT_EQ(state.quota_us, -1);
}

}  // namespace
}  // namespace vmwhy::host
