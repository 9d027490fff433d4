// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/scout.hpp"

#include <dirent.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <boost/asio/post.hpp>

#include "host/proc_file.hpp"
#include "host/process.hpp"

namespace vmwhy::qmp_pausewatch {
namespace {

/// A process becomes QEMU by execve some time after it was forked: a young one is looked at this often.
constexpr int kLooks = 5;

bool looks_like_qemu(std::uint32_t pid) {
  const std::string comm = host::comm_of(pid);
  if (comm.starts_with("qemu") || comm == "kvm") return true;
  std::array<char, 512> exe;
  const ssize_t n = ::readlink(("/proc/" + std::to_string(pid) + "/exe").c_str(), exe.data(), exe.size());
  const std::string_view target(exe.data(), n < 0 ? 0 : static_cast<std::size_t>(n));
  const std::string_view name = target.substr(target.rfind('/') + 1);
  return name.starts_with("qemu-system") || name.starts_with("qemu-kvm") || name == "kvm";
}

}  // namespace

Scout::Scout(boost::asio::io_context& io) : io_(io) {
  // Signals are the main thread's.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { work(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Scout::~Scout() {
  *alive_ = false;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Scout::work() {
  while (true) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !tasks_.empty(); });
      if (stop_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

void Scout::enqueue(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
}

void Scout::answer(std::function<void()> handler) {
  boost::asio::post(io_, [alive = alive_, handler = std::move(handler)] {
    if (*alive) handler();
  });
}

void Scout::find_all(std::function<void(std::vector<qmp::QemuProcess>)> handler) {
  enqueue([this, handler = std::move(handler)] {
    answer([handler, found = qmp::find_qemus()]() mutable { handler(std::move(found)); });
  });
}

void Scout::inspect(std::uint32_t pid, std::function<void(qmp::Result<qmp::QemuProcess>)> handler) {
  enqueue([this, pid, handler = std::move(handler)] {
    answer([handler, found = qmp::inspect_qemu(pid)]() mutable { handler(std::move(found)); });
  });
}

void Scout::find_new(std::function<void(std::vector<qmp::QemuProcess>)> handler) {
  enqueue([this, handler = std::move(handler)] {
    answer([handler, found = scan()]() mutable { handler(std::move(found)); });
  });
}

std::vector<qmp::QemuProcess> Scout::scan() {
  std::vector<qmp::QemuProcess> out;
  for (auto& [pid, seen] : seen_) seen.here = false;
  DIR* const dir = ::opendir("/proc");
  if (!dir) return out;
  while (const dirent* entry = ::readdir(dir)) {
    const auto pid = host::parse_u64(entry->d_name);
    if (!pid) continue;
    Seen& seen = seen_[static_cast<std::uint32_t>(*pid)];
    seen.here = true;
    if (seen.qemu || seen.looks >= kLooks) continue;
    ++seen.looks;
    if (!looks_like_qemu(static_cast<std::uint32_t>(*pid))) continue;
    auto found = qmp::inspect_qemu(static_cast<std::uint32_t>(*pid));
    if (!found) continue;
    seen.qemu = true;
    out.push_back(std::move(*found));
  }
  ::closedir(dir);
  std::erase_if(seen_, [](const auto& entry) { return !entry.second.here; });
  return out;
}

}  // namespace vmwhy::qmp_pausewatch
