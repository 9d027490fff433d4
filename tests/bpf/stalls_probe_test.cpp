// SPDX-License-Identifier: BSD-2-Clause
// The probe stalls on threads of this process: what it accounts against what the kernel itself accounts, who
// is blamed, what is told of stalls, signals and ends; and KVM's phases by bpf_prog_test_run.

#include <gmock/gmock.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <functional>
#include <mutex>
#include <numeric>
#include <optional>
#include <random>
#include <thread>

#include "bpf/load/ring.hpp"
#include "bpf/load/stalls.hpp"
#include "tests/bpf/fixture.hpp"
#include "tests/bpf/stalls_fixture.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::test {
namespace {

TEST_F(StallsProbe, AccountsAsTheKernelDoesAndLosesNoTime) {
  open();
  Worker worker, neighbour;
  worker.run(pin);
  neighbour.run(pin);
  worker.rest();
  neighbour.rest();
  const SchedStat before = schedstat(worker.tid());
  const std::uint64_t began = now_ns();
  const std::uint32_t slot = add(worker.tid());
  const std::uint64_t added = now_ns();
  neighbour.run([] { use_cpu(400'000'000); });
  worker.run([] { use_cpu(300'000'000); });
  worker.rest();
  const SchedStat after = schedstat(worker.tid());
  const stalls_thread seen = row(slot);
  const std::uint64_t now = now_ns();
  neighbour.rest();
  // Every nanosecond since it was registered belongs to one state.
  EXPECT_LE(whole(seen, now), now - began);
  EXPECT_GE(whole(seen, now), now - added);
  // The scheduler's clock may run a little apart, and stands still in interrupts and for a hypervisor above
  // us.
  const auto ran = static_cast<double>(after.run_ns - before.run_ns);
  const auto waited = static_cast<double>(after.wait_ns - before.wait_ns);
  EXPECT_NEAR(static_cast<double>(seen.ns[STALLS_RUNNING]), ran, 0.1 * ran + 2e7);
  EXPECT_NEAR(static_cast<double>(seen.ns[STALLS_WAITING] + seen.ns[STALLS_THROTTLED]), waited,
              0.1 * waited + 2e7);
  EXPECT_EQ(seen.state, static_cast<std::uint32_t>(STALLS_IDLE)) << "a condition variable";
}

TEST_F(StallsProbe, BlamesWhoRanInstead) {
  open();
  Worker worker, neighbour;
  worker.run(pin);
  neighbour.run(pin);
  worker.rest();
  neighbour.rest();
  const std::uint32_t slot = add(worker.tid());
  neighbour.run([] { use_cpu(400'000'000); });
  worker.run([] { use_cpu(300'000'000); });
  worker.rest();
  neighbour.rest();
  const stalls_thread seen = row(slot);
  const std::uint64_t blamed = seen.blamed_ns;
  std::uint64_t neighbours = 0;
  for (const stalls_culprit& culprit : seen.culprits) {
    if (culprit.tid == static_cast<std::uint32_t>(neighbour.tid())) neighbours = culprit.ns;
    EXPECT_NE(culprit.tid, static_cast<std::uint32_t>(worker.tid())) << "nobody waits for itself";
  }
  ASSERT_GT(seen.ns[STALLS_WAITING], 50'000'000u);
  // Not all of it: what is missed, by switches of tasks that the kernel hides, is blamed on nobody.
  EXPECT_LE(blamed, seen.ns[STALLS_WAITING] + 1'000'000u);
  EXPECT_GT(blamed, seen.ns[STALLS_WAITING] / 2);
  // How much is the neighbour's depends on what else the machine does.
  EXPECT_GT(neighbours, 10'000'000u);
}

/// What a thread does that is registered in the middle of it: runs, sleeps, yields, moves to another CPU.
void be_restless(const std::atomic<bool>& ended, unsigned seed) {
  std::minstd_rand random(seed);
  cpu_set_t all;
  ::sched_getaffinity(0, sizeof all, &all);
  while (!ended) {
    switch (random() % 4) {
      case 0:
        use_cpu(random() % 3'000'000);
        break;
      case 1:
        ::usleep(static_cast<useconds_t>(random() % 1000));
        break;
      case 2:
        ::sched_yield();
        break;
      case 3:
        pin();
        use_cpu(random() % 100'000);
        ::sched_setaffinity(0, sizeof all, &all);
        break;
    }
  }
}

TEST_F(StallsProbe, BlamesNobodyForItsOwnWaitNorForMoreThanThereWas) {
  constexpr std::size_t kThreads = 6;
  StallsOptions options;
  options.max_threads = kThreads;  // Each round uses the slots of the one before.
  open(options);
  std::atomic<bool> ended{false};
  std::array<std::atomic<pid_t>, kThreads> tids{};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kThreads; ++i)
    threads.emplace_back([&, i] {
      tids[i] = static_cast<pid_t>(::syscall(SYS_gettid));
      be_restless(ended, static_cast<unsigned>(i) + 1);
    });
  EXPECT_TRUE(wait_until(
      [&] { return std::all_of(tids.begin(), tids.end(), [](const auto& tid) { return tid != 0; }); }));
  for (int round = 0; round < 40; ++round) {
    const std::uint64_t began = now_ns();
    std::vector<std::uint32_t> slots;
    for (const auto& tid : tids) slots.push_back(add(tid));
    while (now_ns() < began + 20'000'000) std::this_thread::yield();
    for (const std::uint32_t slot : slots) {
      const stalls_thread seen = row(slot);
      const std::uint64_t blamed = seen.blamed_ns;
      std::uint64_t listed = 0;
      for (const stalls_culprit& culprit : seen.culprits) {
        listed += culprit.ns;
        EXPECT_TRUE(culprit.ns == 0 || culprit.tid != static_cast<std::uint32_t>(seen.pid_tgid));
      }
      EXPECT_LE(listed, blamed);
      EXPECT_LE(blamed, now_ns() - began);
      probe_->remove(slot);
    }
  }
  ended = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_F(StallsProbe, TellsAStallWithSystemCallDescriptorAndStack) {
  open();
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  Worker worker;
  const std::uint32_t slot = add(worker.tid(), 30'000'000);
  worker.run([&] {
    char byte;
    ASSERT_EQ(::read(ends[0], &byte, 1), 1);
  });
  ASSERT_TRUE(wait_until([&] { return row(slot).state == STALLS_BLOCKED; }));
  // It is seen while it lasts.
  const std::uint64_t began = probe_->stalled_since(slot);
  ASSERT_NE(began, 0u);
  ASSERT_TRUE(wait_until([&] { return now_ns() > began + 40'000'000; }));
  EXPECT_EQ(row(slot).block.syscall, SYS_read);
  ASSERT_EQ(::write(ends[1], "x", 1), 1);
  worker.rest();
  ASSERT_TRUE(comes([&] { return stall_of(STALLS_BLOCKED, 30'000'000) != nullptr; }));
  const stalls_stall& stall = *stall_of(STALLS_BLOCKED, 30'000'000);
  EXPECT_EQ(stall.tid, static_cast<std::uint32_t>(worker.tid()));
  EXPECT_EQ(stall.begin_ns, began);
  EXPECT_EQ(std::accumulate(std::begin(stall.ns), std::end(stall.ns), std::uint64_t{0}),
            stall.end_ns - stall.begin_ns);
  EXPECT_EQ(stall.block.syscall, SYS_read);
  EXPECT_EQ(stall.block.argument, static_cast<std::uint64_t>(ends[0]));
  EXPECT_GT(stall.block.frames, 0);
  EXPECT_EQ(probe_->stalled_since(slot), 0u);
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_F(StallsProbe, TellsALockFromACondition) {
  open();
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  ASSERT_EQ(::pthread_mutex_lock(&mutex), 0);
  Worker worker;
  const std::uint32_t slot = add(worker.tid());
  EXPECT_EQ(row(slot).state, static_cast<std::uint32_t>(STALLS_IDLE))
      << "it was looked at when it was registered";
  worker.run([&] {
    ::pthread_mutex_lock(&mutex);
    ::pthread_mutex_unlock(&mutex);
  });
  EXPECT_TRUE(wait_until([&] { return row(slot).state == STALLS_LOCK; }));
  ::pthread_mutex_unlock(&mutex);
  worker.rest();
  EXPECT_TRUE(wait_until([&] { return row(slot).state == STALLS_IDLE; }));
}

TEST_F(StallsProbe, NamesTheSenderOfASignalAndSeesTheStopAndTheEnd) {
  open();
  const pid_t child = ::fork();
  if (child == 0)
    for (;;) ::pause();
  ASSERT_GT(child, 0);
  const std::uint32_t slot = add(child, 20'000'000, child);
  ::kill(child, SIGSTOP);
  ASSERT_TRUE(wait_until([&] { return row(slot).state == STALLS_STOPPED; }));
  ASSERT_TRUE(comes([&] { return !signals_.empty(); }));
  EXPECT_EQ(signals_[0].signal, SIGSTOP);
  EXPECT_EQ(signals_[0].target_tgid, static_cast<std::uint32_t>(child));
  EXPECT_EQ(signals_[0].sender_tgid, static_cast<std::uint32_t>(::getpid()));
  EXPECT_EQ(signals_[0].code, SI_USER);
  ASSERT_TRUE(wait_until([&] { return now_ns() > probe_->stalled_since(slot) + 25'000'000; }));
  ::kill(child, SIGKILL);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  ASSERT_TRUE(comes([&] { return !signals_.empty() && signals_.back().message == STALLS_MESSAGE_EXIT; }));
  EXPECT_EQ(signals_.back().signal & 0x7f, SIGKILL);
  EXPECT_EQ(signals_.back().target_tgid, static_cast<std::uint32_t>(child));
  EXPECT_TRUE(stall_of(STALLS_STOPPED, 20'000'000)) << "the stop was a stall, and the end ended it";
  EXPECT_EQ(row(slot).state, static_cast<std::uint32_t>(STALLS_STATES));
}

TEST_F(StallsProbe, RefusesAThreadTwiceAndUsesSlotsAgain) {
  StallsOptions options;
  options.max_threads = 1;
  open(options);
  Worker worker, other;
  const std::uint32_t slot = add(worker.tid());
  const auto tid = [](const Worker& of) { return static_cast<std::uint32_t>(of.tid()); };
  EXPECT_EQ(probe_->add(1, tid(worker), 1).error().code.value(), EEXIST);
  EXPECT_EQ(probe_->add(1, tid(other), 1).error().code.value(), ENOSPC);
  EXPECT_EQ(probe_->add(1, 0x7fffffff, 1).error().code.value(), ERANGE);
  probe_->remove(slot);
  EXPECT_FALSE(probe_->read(slot));
  EXPECT_TRUE(probe_->add(1, tid(other), 1));
}

/// KVM's tracepoints in the calling thread, with arguments of arm64: they need no structs of the kernel.
class KvmPhases : public StallsProbe {
 protected:
  void SetUp() override {
    StallsProbe::SetUp();
    if (IsSkipped()) return;
    StallsOptions options;
    options.form = StallsOptions::Form::raw;
    options.isa = bpf::Isa::arm64;
    options.vcpu_threshold_ns = 6'000'000;
    open(options);
    slot_ = add(static_cast<pid_t>(::syscall(SYS_gettid)));
  }
  void run(const char* program, std::vector<std::uint64_t> arguments) {
    ASSERT_EQ(probe_->test_run(program, std::move(arguments)), 0) << program;
  }
  void entry() { run("raw_kvm_entry", {0}); }
  void exit(std::uint64_t code) { run("raw_kvm_exit", {2, code}); }

  std::uint32_t slot_ = 0;
};

TEST_F(KvmPhases, TellsGuestKvmAndQemuApart) {
  const std::uint64_t began = now_ns();
  run("raw_kvm_fpu", {1});
  entry();
  busy_wait(5'000'000);
  exit(0x24);
  busy_wait(3'000'000);
  run("raw_kvm_userspace_exit", {6, 0});
  busy_wait(4'000'000);
  run("raw_kvm_fpu", {1});
  entry();
  const stalls_thread seen = row(slot_);
  const std::uint64_t now = now_ns();
  EXPECT_GE(seen.ns[STALLS_GUEST], 5'000'000u);
  EXPECT_GE(seen.ns[STALLS_KVM], 3'000'000u);
  EXPECT_GE(seen.kvm_ns[0x24], 3'000'000u);
  EXPECT_GE(seen.ns[STALLS_QEMU], 4'000'000u);
  EXPECT_EQ(seen.qemu_ns[6], seen.ns[STALLS_QEMU]);
  EXPECT_EQ(seen.state, static_cast<std::uint32_t>(STALLS_GUEST));
  EXPECT_GE(whole(seen, now), now - began);
  EXPECT_EQ(seen.good, bpf::stalls_good_mask(true)) << "who enters the guest is a vCPU";
  // Out of the guest for longer than the threshold: a stall, whatever it was spent on.
  ASSERT_TRUE(comes([&] { return !stalls_.empty(); }));
  EXPECT_GE(stalls_[0].ns[STALLS_KVM], 3'000'000u);
  EXPECT_GE(stalls_[0].ns[STALLS_QEMU], 4'000'000u);
  EXPECT_EQ(stalls_[0].user_code, 6);
}

TEST_F(KvmPhases, TakesTheEndOfKvmsTimeForPollingWhereKvmSaysSo) {
  run("raw_kvm_fpu", {1});
  entry();
  exit(1);
  busy_wait(4'000'000);
  run("raw_kvm_vcpu_wakeup", {2'000'000, 0, 1});
  const stalls_thread seen = row(slot_);
  EXPECT_EQ(seen.ns[STALLS_HALT_POLL], 2'000'000u);
  EXPECT_GE(seen.ns[STALLS_KVM], 2'000'000u);
  EXPECT_TRUE(stalls_.empty());
}

TEST_F(KvmPhases, CountsReclaimApartWhateverElseTheThreadDoes) {
  run("raw_kvm_fpu", {1});
  entry();
  exit(0x24);
  run("raw_mm_vmscan_direct_reclaim_begin", {0, 0});
  busy_wait(3'000'000);
  run("raw_mm_vmscan_direct_reclaim_end", {0});
  const stalls_thread seen = row(slot_);
  EXPECT_GE(seen.ns[STALLS_RECLAIM], 3'000'000u);
  EXPECT_EQ(seen.state, static_cast<std::uint32_t>(STALLS_KVM));
}

}  // namespace
}  // namespace vmwhy::test
