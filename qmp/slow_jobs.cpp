// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/slow_jobs.hpp"

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>

namespace vmwhy::qmp {
namespace {

constexpr std::size_t kThreads = 4;
constexpr std::size_t kMostThreads = 64;
constexpr std::chrono::milliseconds kPatience{20};

// Keys of jobs that run now. Never destroyed: threads left behind use it until the process ends.
struct Running {
  std::mutex mutex;
  std::set<std::string> keys;
  static Running& instance() {
    static auto* const running = new Running;
    return *running;
  }
  bool enter(const std::string& key) {
    const std::lock_guard lock(mutex);
    return keys.insert(key).second;
  }
  void leave(const std::string& key) {
    const std::lock_guard lock(mutex);
    keys.erase(key);
  }
};

struct Batch {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<SlowJob> jobs;
  std::vector<bool> ended;
  std::size_t next = 0;
  std::size_t finished = 0;
  bool over = false;  ///< Nobody waits any more: begin nothing new.
};

void run_jobs(const std::shared_ptr<Batch>& batch) {
  std::unique_lock lock(batch->mutex);
  while (!batch->over && batch->next < batch->jobs.size()) {
    const std::size_t index = batch->next++;
    const SlowJob& job = batch->jobs[index];
    lock.unlock();
    const bool entered = Running::instance().enter(job.key);
    if (entered) {
      job.work();
      Running::instance().leave(job.key);
    }
    lock.lock();
    batch->ended[index] = entered;
    ++batch->finished;
    batch->changed.notify_all();
  }
}

bool add_thread(const std::shared_ptr<Batch>& batch) {
  try {
    std::thread([batch] { run_jobs(batch); }).detach();
    return true;
  } catch (const std::system_error&) {
    return false;
  }
}

}  // namespace

std::vector<bool> run_slow_jobs(const std::vector<SlowJob>& jobs, std::chrono::milliseconds deadline) {
  const auto batch = std::make_shared<Batch>();
  batch->jobs = jobs;
  batch->ended.assign(jobs.size(), false);
  const auto end = std::chrono::steady_clock::now() + deadline;
  std::size_t threads = 0;
  while (threads < std::min(kThreads, jobs.size()) && add_thread(batch)) ++threads;
  std::unique_lock lock(batch->mutex);
  while (batch->finished < jobs.size() && std::chrono::steady_clock::now() < end) {
    const std::size_t before = batch->finished;
    const auto until = std::min(end, std::chrono::steady_clock::now() + kPatience);
    batch->changed.wait_until(lock, until, [&] { return batch->finished != before; });
    if (batch->finished == before && batch->next < jobs.size() && threads < kMostThreads && add_thread(batch))
      ++threads;
  }
  batch->over = true;
  return batch->ended;
}

}  // namespace vmwhy::qmp
