// SPDX-License-Identifier: BSD-2-Clause
// The probe stalls: stacks in user space, owners of mutexes, very many threads.

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <list>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

#include "tests/bpf/stalls_fixture.hpp"

namespace vmwhy::test {
namespace {

constexpr char kMark[] = "a word that stands on the stack of the thread that is blocked";

/// Reads a pipe, with a word on its stack.
__attribute__((noinline)) void read_with_mark(int fd) {
  char mark[sizeof kMark], byte = 0;
  std::memcpy(mark, kMark, sizeof kMark);
  asm volatile("" : : "r"(mark) : "memory");
  while (::read(fd, &byte, 1) < 0 && errno == EINTR) {
  }
  asm volatile("" : : "r"(mark) : "memory");
}

bool has_mark(const stalls_user& user) {
  return std::string_view(user.stack[0], user.bytes).find(kMark) != std::string_view::npos;
}

TEST_F(StallsProbe, KeepsTheUserStackOfWhatAThreadSleepsIn) {
  open();
  Worker worker;
  const std::uint32_t slot = add(worker.tid(), 1'000'000);
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  worker.run([&] { read_with_mark(ends[0]); });
  // While it goes on …
  ASSERT_TRUE(wait_until([&] {
    const auto seen = probe_->read(slot);
    return seen && seen->state == STALLS_BLOCKED && seen->block.user != 0;
  }));
  const stalls_thread seen = row(slot);
  const auto user = probe_->user_stack(slot, seen.block);
  ASSERT_NE(user, nullptr);
  EXPECT_TRUE(has_mark(*user)) << user->bytes;
  stalls_block other = seen.block;
  ++other.since_ns;
  EXPECT_EQ(probe_->user_stack(slot, other), nullptr) << "of another sleep";
  std::this_thread::sleep_until(std::chrono::steady_clock::now() + std::chrono::milliseconds(20));
  // … and when it has ended, however much the thread slept since.
  ASSERT_EQ(::write(ends[1], "x", 1), 1);
  worker.rest();
  ASSERT_TRUE(comes([&] { return stall_of(STALLS_BLOCKED, 10'000'000) != nullptr; }));
  const auto of_stall = std::find_if(users_.begin(), users_.end(), [&](const stalls_user& one) {
    return one.begin_ns == stall_of(STALLS_BLOCKED, 10'000'000)->begin_ns;
  });
  ASSERT_NE(of_stall, users_.end());
  EXPECT_EQ(of_stall->tid, static_cast<std::uint32_t>(worker.tid()));
  EXPECT_TRUE(has_mark(*of_stall));
  for (const int end : ends) ::close(end);
}

TEST_F(StallsProbe, NamesTheOwnerOfAMutex) {
  open();
  Worker worker;
  const std::uint32_t slot = add(worker.tid());
  std::mutex mutex;
  mutex.lock();
  worker.run([&] { const std::lock_guard lock(mutex); });
  ASSERT_TRUE(wait_until([&] {
    const auto seen = probe_->read(slot);
    return seen && seen->state == STALLS_LOCK && seen->block.lock_owner != 0;
  }));
  const auto me = static_cast<std::uint32_t>(::syscall(SYS_gettid));
  EXPECT_EQ(row(slot).block.lock_owner, me);
  mutex.unlock();
  worker.rest();
  EXPECT_EQ(row(slot).block.lock_owner, 0u) << "a condition variable has no owner";
}

TEST_F(StallsProbe, SaysWhichTracepointsAKernelLacks) {
  StallsOptions options;
  options.lacking = {"signal_generate", "mm_vmscan_memcg_reclaim_begin"};
  open(options);
  for (const bpf::StallsProbe& probe : probe_->probes()) {
    const bool lacking =
        std::find(options.lacking.begin(), options.lacking.end(), probe.name) != options.lacking.end();
    if (lacking) {
      EXPECT_FALSE(probe.attached) << probe.name;
      EXPECT_EQ(probe.error, "this kernel's BTF shows no such tracepoint");
    } else if (probe.name.starts_with("sched_")) {
      EXPECT_TRUE(probe.attached) << probe.name << ": " << probe.error;
    }
  }
  // What is left accounts all the same.
  Worker worker;
  const std::uint32_t slot = add(worker.tid());
  worker.run([] { use_cpu(20'000'000); });
  worker.rest();
  EXPECT_GT(row(slot).ns[STALLS_RUNNING], 10'000'000u);
}

TEST_F(StallsProbe, RefusesAKernelWithoutTheScheduler) {
  StallsOptions options;
  options.lacking = {"sched_switch"};
  auto loaded = Stalls::load(bpf::look_around(), options);
  ASSERT_TRUE(loaded) << to_string(loaded.error());
  const auto attached = (*loaded)->attach();
  ASSERT_FALSE(attached);
  const std::string text = to_string(attached.error());
  EXPECT_NE(text.find("sched_switch: this kernel's BTF shows no such tracepoint"), std::string::npos) << text;
  EXPECT_EQ(text.find('\n'), std::string::npos);
}

TEST_F(StallsProbe, WatchesAsManyThreadsAsThereIsRoomFor) {
  constexpr std::size_t kThreads = 512;
  StallsOptions options;
  options.max_threads = kThreads;
  open(options);
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<pid_t> tids;
  bool over = false;
  std::list<std::thread> threads;
  for (std::size_t i = 0; i <= kThreads; ++i)
    threads.emplace_back([&] {
      std::unique_lock lock(mutex);
      tids.push_back(static_cast<pid_t>(::syscall(SYS_gettid)));
      changed.notify_all();
      changed.wait(lock, [&] { return over; });
    });
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return tids.size() == kThreads + 1; });
  }
  const auto me = static_cast<std::uint32_t>(::getpid());
  std::vector<std::uint32_t> slots;
  for (std::size_t i = 0; i < kThreads; ++i) {
    const auto slot = probe_->add(me, static_cast<std::uint32_t>(tids[i]), 1'000'000'000'000);
    ASSERT_TRUE(slot) << to_string(slot.error());
    slots.push_back(*slot);
  }
  const auto refused = probe_->add(me, static_cast<std::uint32_t>(tids.back()), 1'000'000'000'000);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code.value(), ENOSPC);
  EXPECT_NE(to_string(refused.error()).find("--max-threads"), std::string::npos);
  {
    const std::lock_guard lock(mutex);
    over = true;
  }
  changed.notify_all();
  for (std::thread& thread : threads) thread.join();
  // Each was woken, ran and ended: the times of each are whole.
  for (const std::uint32_t slot : slots) {
    const stalls_thread seen = row(slot);
    EXPECT_GE(seen.state, static_cast<std::uint32_t>(STALLS_STATES)) << "it has ended";
    EXPECT_GT(seen.ns[STALLS_RUNNING], 0u);
  }
}

}  // namespace
}  // namespace vmwhy::test
