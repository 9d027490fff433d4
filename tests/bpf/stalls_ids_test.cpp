// SPDX-License-Identifier: BSD-2-Clause
// The probe stalls where ids do not stay what they were: a thread's number that another gets after it, and a
// process that becomes another program.

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <iterator>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "tests/bpf/stalls_fixture.hpp"
#include "tests/support/pid_again.hpp"

namespace vmwhy::test {
namespace {

/// A child that runs on the CPU of the test's other threads until it is ended. SIGUSR1 makes it call itself
/// "late-name".
class BusyChild {
 public:
  /// @param pid  What fork() has returned, in the child too.
  BusyChild(pid_t pid, const char* name) : pid_(pid) {
    if (pid == 0) be_busy(name);
    EXPECT_GT(pid, 0);
  }
  BusyChild(const BusyChild&) = delete;
  BusyChild& operator=(const BusyChild&) = delete;
  ~BusyChild() { end(); }
  pid_t pid() const { return pid_; }
  void end() {
    if (pid_ <= 0 || ended_) return;
    ended_ = true;
    ::kill(pid_, SIGKILL);
    EXPECT_EQ(::waitpid(pid_, nullptr, 0), pid_);
  }

 private:
  [[noreturn]] static void be_busy(const char* name) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::prctl(PR_SET_NAME, name);
    ::signal(SIGUSR1, [](int) { ::prctl(PR_SET_NAME, "late-name"); });
    ::setpriority(PRIO_PROCESS, 0, -20);  // Whoever else is on that CPU gets little of it.
    pin();
    for (;;) {
    }
  }
  pid_t pid_;
  bool ended_ = false;
};

/// A thread of this process that never rests, on that CPU.
class BusyWorker {
 public:
  BusyWorker() {
    worker_.run(pin);
    worker_.rest();
  }
  ~BusyWorker() { ended_ = true; }
  pid_t tid() const { return worker_.tid(); }
  void begin() {
    worker_.run([this] {
      while (!ended_) {
      }
    });
  }

 private:
  std::atomic<bool> ended_{false};
  Worker worker_;  // Ends first.
};

std::uint64_t sum_of(const stalls_thread& row) {
  return std::accumulate(std::begin(row.ns), std::end(row.ns), std::uint64_t{0});
}

TEST_F(StallsProbe, WhoGetsAThreadsNumberAfterItIsNotWatched) {
  VMWHY_NEEDS(pid_again);
  open();
  BusyChild first(::fork(), "first");
  const std::uint32_t slot = add(first.pid(), 1'000'000'000'000, first.pid());
  ASSERT_TRUE(wait_until([&] { return process_time_ns(first.pid()) > 10'000'000; }));
  first.end();
  const std::uint64_t whole = sum_of(row(slot));
  const BusyChild child(fork_as(first.pid()), "second");
  const pid_t second = child.pid();
  ASSERT_EQ(second, first.pid()) << "its number was not to be had again";
  // It runs, is switched and is stopped: nothing of that is the first one's.
  ASSERT_TRUE(wait_until([&] { return process_time_ns(second) > 50'000'000; }));
  ::kill(second, SIGSTOP);
  ASSERT_TRUE(wait_until([&] { return letter(second, second) == 'T'; }));
  EXPECT_EQ(row(slot).state, static_cast<std::uint32_t>(STALLS_STATES));
  EXPECT_EQ(sum_of(row(slot)), whole);
  reader_->drain();
  for (const stalls_signal& signal : signals_) EXPECT_NE(signal.signal, SIGSTOP) << "it is not watched";
  // Watched in its turn, it begins with nothing.
  const std::uint32_t again = add(second, 1'000'000'000'000, second);
  EXPECT_NE(again, slot);
  EXPECT_EQ(row(again).stalls, 0u);
  EXPECT_EQ(row(again).ns[STALLS_RUNNING], 0u);
  EXPECT_EQ(row(again).state, static_cast<std::uint32_t>(STALLS_STOPPED));
}

TEST_F(StallsProbe, BlamesWhoHadTheSameNumberAfterEachOtherApart) {
  VMWHY_NEEDS(pid_again);
  open();
  BusyWorker worker;
  const std::uint32_t slot = add(worker.tid());
  worker.begin();
  const auto blamed = [&](std::string_view name) {
    const stalls_thread seen = row(slot);
    std::uint64_t ns = 0;
    for (const stalls_culprit& culprit : seen.culprits)
      if (name == culprit.comm) ns += culprit.ns;
    return ns;
  };
  BusyChild first(::fork(), "first-of-two");
  ASSERT_TRUE(wait_until([&] { return blamed("first-of-two") > 20'000'000; }));
  first.end();
  BusyChild second(fork_as(first.pid()), "second-of-two");
  ASSERT_EQ(second.pid(), first.pid()) << "its number was not to be had again";
  EXPECT_TRUE(wait_until([&] { return blamed("second-of-two") > 20'000'000; }));
  const std::uint64_t firsts = blamed("first-of-two");
  EXPECT_TRUE(wait_until([&] { return blamed("second-of-two") > 60'000'000; }));
  second.end();
  const std::uint64_t afterwards = blamed("first-of-two");
  EXPECT_TRUE(afterwards == firsts || afterwards == 0) << "it may have made room, and got nothing more";
}

// As whatever a shell starts: it runs under the shell's name first.
TEST_F(StallsProbe, ACulpritIsCalledWhatItIsCalledNow) {
  open();
  BusyWorker worker;
  const std::uint32_t slot = add(worker.tid());
  worker.begin();
  const BusyChild child(::fork(), "early-name");
  const auto blamed_as = [&](std::string_view name) {
    const stalls_thread seen = row(slot);
    return std::any_of(
        std::begin(seen.culprits), std::end(seen.culprits), [&](const stalls_culprit& culprit) {
          return culprit.tid == static_cast<std::uint32_t>(child.pid()) && name == culprit.comm;
        });
  };
  ASSERT_TRUE(wait_until([&] { return blamed_as("early-name"); }));
  ASSERT_EQ(::kill(child.pid(), SIGUSR1), 0);
  EXPECT_TRUE(wait_until([&] { return blamed_as("late-name"); }));
  EXPECT_FALSE(blamed_as("early-name"));
}

/// A child that becomes `sleep` when it reads a byte: by its main thread, or by another.
pid_t fork_who_executes(int from, bool by_another) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  static int fd = from;
  const auto become = [](void*) -> void* {
    char byte = 0;
    if (::read(fd, &byte, 1) == 1) ::execlp("sleep", "sleep", "1000", nullptr);
    ::_exit(1);
  };
  if (!by_another) become(nullptr);
  pthread_t thread{};
  if (::pthread_create(&thread, nullptr, become, nullptr) != 0) ::_exit(1);
  for (;;) ::pause();
}

class StallsOfWhoExecutes : public StallsProbe, public ::testing::WithParamInterface<bool> {};

TEST_P(StallsOfWhoExecutes, AProcessThatBecomesAnotherProgramIsTold) {
  open();
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  const pid_t child = fork_who_executes(ends[0], GetParam());
  ASSERT_GT(child, 0);
  std::vector<pid_t> tids;
  const std::string threads = "/proc/" + std::to_string(child) + "/task";
  ASSERT_TRUE(wait_until([&] {
    tids.clear();
    for (const auto& entry : std::filesystem::directory_iterator(threads))
      tids.push_back(std::stoi(entry.path().filename()));
    return tids.size() == (GetParam() ? 2u : 1u) && letter(child, tids.back()) == 'S';
  }));
  std::vector<std::uint32_t> slots;
  for (const pid_t tid : tids) slots.push_back(add(tid, 1'000'000'000'000, child));
  ASSERT_EQ(::write(ends[1], "x", 1), 1);
  ASSERT_TRUE(comes([&] { return !signals_.empty() && signals_.back().message == STALLS_MESSAGE_EXEC; }));
  EXPECT_EQ(signals_.back().target_tgid, static_cast<std::uint32_t>(child));
  EXPECT_EQ(std::string_view(signals_.back().sender_comm), "sleep");
  // That is no end of the process, and what it does now is nobody's whom we watch.
  for (const stalls_signal& signal : signals_)
    EXPECT_NE(signal.message, static_cast<std::uint32_t>(STALLS_MESSAGE_EXIT));
  for (const std::uint32_t slot : slots)
    EXPECT_EQ(row(slot).state, static_cast<std::uint32_t>(STALLS_STATES));
  ::kill(child, SIGKILL);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  reader_->drain();
  EXPECT_EQ(signals_.back().message, static_cast<std::uint32_t>(STALLS_MESSAGE_EXEC));
  for (const int end : ends) ::close(end);
}

INSTANTIATE_TEST_SUITE_P(ByThread, StallsOfWhoExecutes, ::testing::Values(false, true),
                         [](const auto& info) { return info.param ? "Another" : "Main"; });

}  // namespace
}  // namespace vmwhy::test
