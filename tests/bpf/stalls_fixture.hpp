// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What tests of the probe stalls share: it watches threads of this process, which do as they are told.

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "bpf/load/ring.hpp"
#include "bpf/load/stalls.hpp"
#include "tests/bpf/fixture.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::test {

using bpf::Stalls;
using bpf::StallsOptions;

inline std::uint64_t now_ns() {
  timespec at{};
  ::clock_gettime(CLOCK_BOOTTIME, &at);
  return static_cast<std::uint64_t>(at.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(at.tv_nsec);
}

struct SchedStat {
  std::uint64_t run_ns = 0, wait_ns = 0;
};
inline SchedStat schedstat(pid_t tid) {
  SchedStat out;
  std::ifstream("/proc/self/task/" + std::to_string(tid) + "/schedstat") >> out.run_ns >> out.wait_ns;
  return out;
}

inline char letter(pid_t pid, pid_t tid) {
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

inline void use_cpu(std::uint64_t ns) {
  const auto spent = [] {
    timespec at{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
    return static_cast<std::uint64_t>(at.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(at.tv_nsec);
  };
  for (const std::uint64_t end = spent() + ns; spent() < end;) {
  }
}

/// To the first CPU that the thread may use.
inline void pin() {
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

}  // namespace vmwhy::test
