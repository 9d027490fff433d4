// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-stalls/user_stacks.hpp"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <thread>

#include "sym/process_code.hpp"

namespace vmwhy::kvm_stalls {
namespace {

#if defined(__x86_64__)
// struct pt_regs in the order in which DWARF numbers registers: rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 …
constexpr std::array<std::size_t, 16> kOrder{10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0};
constexpr std::size_t kPc = 16, kSp = 19;
#else
constexpr std::array<std::size_t, 32> kOrder{0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                             16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
constexpr std::size_t kPc = 32, kSp = 31;
#endif

constexpr std::chrono::seconds kLookAgain{10};
constexpr std::size_t kMostJobs = 64;

std::vector<stalls::UserFrame> frames_of(sym::ProcessCode& code, std::uint32_t pid, const stalls_user& user) {
  std::array<std::uint64_t, kOrder.size()> registers;
  for (std::size_t i = 0; i < kOrder.size(); ++i) registers[i] = user.registers[kOrder[i]];
  sym::Snapshot snapshot;
  snapshot.pc = user.registers[kPc];
  snapshot.sp = user.registers[kSp];
  snapshot.registers = registers;
  snapshot.stack =
      std::as_bytes(std::span(&user.stack[0][0], std::min<std::size_t>(user.bytes, sizeof user.stack)));
  std::vector<stalls::UserFrame> out;
  for (sym::NamedFrame& frame : code.name(pid, snapshot))
    out.push_back({std::move(frame.name), std::move(frame.build_id), frame.address});
  return out;
}

}  // namespace

// What both threads see. The worker alone touches `code`.
struct UserStacks::Shared {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void(sym::ProcessCode&)>> jobs;
  bool over = false;
  bool busy = false;  ///< With a job that is no longer in `jobs`.
  bool late = false;  ///< The last answer did not come in time: nobody waits until one does.

  void put(std::function<void(sym::ProcessCode&)> job) {
    {
      const std::lock_guard lock(mutex);
      jobs.push_back(std::move(job));
    }
    changed.notify_all();
  }
  void work() {
    sym::ProcessCode code;
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [this] { return over || !jobs.empty(); });
      if (over) return;
      const auto job = std::move(jobs.front());
      jobs.pop_front();
      busy = true;
      lock.unlock();
      job(code);
      lock.lock();
      busy = false;
      if (jobs.empty()) changed.notify_all();
    }
  }
};

UserStacks::UserStacks() : shared_(std::make_shared<Shared>()) {
  std::thread([shared = shared_] { shared->work(); }).detach();
}

UserStacks::~UserStacks() {
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->over = true;
  }
  shared_->changed.notify_all();
}

void UserStacks::add(std::uint32_t pid) {
  looked_[pid] = std::chrono::steady_clock::now();
  shared_->put([pid](sym::ProcessCode& code) {
    // Where it cannot be read there are no names: a process that is gone.
    if (!code.look(pid)) code.forget(pid);
  });
}

void UserStacks::forget(std::uint32_t pid) {
  looked_.erase(pid);
  shared_->put([pid](sym::ProcessCode& code) { code.forget(pid); });
}

void UserStacks::wait_until_read(std::chrono::milliseconds deadline) {
  std::unique_lock lock(shared_->mutex);
  shared_->changed.wait_for(lock, deadline, [&] { return shared_->jobs.empty() && !shared_->busy; });
}

std::vector<stalls::UserFrame> UserStacks::name(std::uint32_t pid, const stalls_user& user,
                                                std::chrono::milliseconds deadline) {
  struct Answer {
    std::vector<stalls::UserFrame> frames;
    bool ready = false;
  };
  const auto answer = std::make_shared<Answer>();
  const auto snapshot = std::make_shared<const stalls_user>(user);
  std::unique_lock lock(shared_->mutex);
  // It hangs in an earlier job, or has very much to do: do not wait for it again.
  if (shared_->jobs.size() > kMostJobs) {
    ++missed_;
    return {};
  }
  shared_->jobs.emplace_back([pid, snapshot, answer, shared = shared_.get()](sym::ProcessCode& code) {
    std::vector<stalls::UserFrame> frames = frames_of(code, pid, *snapshot);
    const std::lock_guard guard(shared->mutex);
    answer->frames = std::move(frames);
    answer->ready = true;
    shared->late = false;
    shared->changed.notify_all();
  });
  shared_->changed.notify_all();
  const auto wait = shared_->late ? std::chrono::milliseconds(0) : deadline;
  shared_->changed.wait_for(lock, wait, [&] { return answer->ready; });
  if (!answer->ready) {
    shared_->late = true;
    ++missed_;
  }
  std::vector<stalls::UserFrame> frames = std::move(answer->frames);
  lock.unlock();
  // Code that was not there then: a module of QEMU's.
  const auto looked = looked_.find(pid);
  if (frames.empty() && looked != looked_.end() &&
      std::chrono::steady_clock::now() - looked->second > kLookAgain)
    add(pid);
  return frames;
}

}  // namespace vmwhy::kvm_stalls
