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
#include "tests/support/capability.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::test {
namespace {

using bpf::Stalls;
using bpf::StallsOptions;

std::uint64_t now_ns() {
  timespec at{};
  ::clock_gettime(CLOCK_BOOTTIME, &at);
  return static_cast<std::uint64_t>(at.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(at.tv_nsec);
}

struct SchedStat {
  std::uint64_t run_ns = 0, wait_ns = 0;
};
SchedStat schedstat(pid_t tid) {
  SchedStat out;
  std::ifstream("/proc/self/task/" + std::to_string(tid) + "/schedstat") >> out.run_ns >> out.wait_ns;
  return out;
}

char letter(pid_t pid, pid_t tid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/task/" + std::to_string(tid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(in)), {});
  const std::size_t end = text.rfind(')');
  return end == std::string::npos || end + 2 >= text.size() ? '?' : text[end + 2];
}

/// A thread that does one thing after another, and sleeps on a condition variable in between.
class Worker {
 public:
  Worker() : thread_([this] { loop(); }) {
    while (tid_ == 0) std::this_thread::yield();
    rest();
  }
  ~Worker() {
    run([this] { ended_ = true; });
    thread_.join();
  }
  pid_t tid() const { return tid_; }
  void run(std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    work_ = std::move(work);
    busy_ = true;
    condition_.notify_all();
  }
  /// Until it has done its work and sleeps.
  void rest() {
    EXPECT_TRUE(wait_until([this] { return !busy_ && letter(::getpid(), tid_) == 'S'; }));
  }

 private:
  void loop() {
    tid_ = static_cast<pid_t>(::syscall(SYS_gettid));
    while (!ended_) {
      std::unique_lock lock(mutex_);
      condition_.wait(lock, [this] { return static_cast<bool>(work_); });
      const auto work = std::exchange(work_, nullptr);
      lock.unlock();
      work();
      busy_ = false;
    }
  }
  std::atomic<pid_t> tid_{0};
  std::atomic<bool> busy_{false};
  std::mutex mutex_;
  std::condition_variable condition_;
  std::function<void()> work_;
  bool ended_ = false;
  std::thread thread_;
};

void use_cpu(std::uint64_t ns) {
  const auto spent = [] {
    timespec at{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
    return static_cast<std::uint64_t>(at.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(at.tv_nsec);
  };
  for (const std::uint64_t end = spent() + ns; spent() < end;) {
  }
}

/// To the first CPU that the thread may use.
void pin() {
  cpu_set_t set, one;
  CPU_ZERO(&set);
  CPU_ZERO(&one);
  ::sched_getaffinity(0, sizeof set, &set);
  int cpu = 0;
  while (cpu < CPU_SETSIZE - 1 && !CPU_ISSET(cpu, &set)) ++cpu;
  CPU_SET(cpu, &one);
  ::sched_setaffinity(0, sizeof one, &one);
}

class StallsProbe : public ::testing::Test {
 protected:
  void SetUp() override { VMWHY_NEEDS(bpf); }

  void open(StallsOptions options = {}) {
    auto loaded = Stalls::load(bpf::look_around(), options);
    ASSERT_TRUE(loaded) << to_string(loaded.error());
    probe_ = std::move(*loaded);
    auto reader = bpf::RingReader::create(probe_->ring_fd(), [this](const void* data, std::size_t bytes) {
      if (bytes == sizeof(stalls_stall)) {
        stalls_.emplace_back();
        std::memcpy(&stalls_.back(), data, bytes);
      } else if (bytes == sizeof(stalls_user)) {
        users_.emplace_back();
        std::memcpy(&users_.back(), data, bytes);
      } else if (bytes == sizeof(stalls_signal)) {
        signals_.emplace_back();
        std::memcpy(&signals_.back(), data, bytes);
      }
    });
    ASSERT_TRUE(reader) << to_string(reader.error());
    reader_ = std::move(*reader);
    if (options.form == StallsOptions::Form::raw) return;
    const auto attached = probe_->attach();
    ASSERT_TRUE(attached) << to_string(attached.error());
  }
  std::uint32_t add(pid_t tid, std::uint64_t threshold_ns = 1'000'000'000'000, pid_t tgid = ::getpid()) {
    const auto slot =
        probe_->add(static_cast<std::uint32_t>(tgid), static_cast<std::uint32_t>(tid), threshold_ns);
    EXPECT_TRUE(slot) << to_string(slot.error());
    probe_->settle();
    return slot ? *slot : 0;
  }
  stalls_thread row(std::uint32_t slot) {
    // Its writer may have lost its CPU in the middle of it.
    std::optional<stalls_thread> row;
    EXPECT_TRUE(wait_until([&] { return (row = probe_->read(slot)).has_value(); }));
    return row ? *row : stalls_thread{};
  }
  /// All times of the row, what the present state has lasted included.
  std::uint64_t whole(const stalls_thread& row, std::uint64_t now) {
    return std::accumulate(std::begin(row.ns), std::end(row.ns), std::uint64_t{0}) + now - row.since_ns;
  }
  bool comes(const std::function<bool()>& what) {
    return wait_until([&] {
      reader_->drain();
      return what();
    });
  }

  /// The stall of which at least so much was spent so: on a busy machine there are others, for a CPU.
  const stalls_stall* stall_of(stalls_state state, std::uint64_t ns) {
    const auto found = std::find_if(stalls_.begin(), stalls_.end(),
                                    [&](const stalls_stall& stall) { return stall.ns[state] >= ns; });
    return found == stalls_.end() ? nullptr : &*found;
  }

  std::unique_ptr<Stalls> probe_;
  std::unique_ptr<bpf::RingReader> reader_;
  std::vector<stalls_stall> stalls_;
  std::vector<stalls_signal> signals_;
  std::vector<stalls_user> users_;
};

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
  neighbour.run([] { use_cpu(400'000'000); });
  worker.run([] { use_cpu(300'000'000); });
  worker.rest();
  const SchedStat after = schedstat(worker.tid());
  const stalls_thread seen = row(slot);
  const std::uint64_t now = now_ns();
  neighbour.rest();
  // Every nanosecond since it was registered belongs to one state.
  EXPECT_NEAR(static_cast<double>(whole(seen, now)), static_cast<double>(now - began),
              0.001 * static_cast<double>(now - began) + 1e6);
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
  std::uint64_t blamed = seen.others_ns, neighbours = 0;
  for (const stalls_culprit& culprit : seen.culprits) {
    blamed += culprit.ns;
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
      std::uint64_t blamed = seen.others_ns;
      for (const stalls_culprit& culprit : seen.culprits) {
        blamed += culprit.ns;
        EXPECT_TRUE(culprit.ns == 0 || culprit.tid != static_cast<std::uint32_t>(seen.pid_tgid));
      }
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
