// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Discovery on a thread of its own: looking at a sick QEMU's command line may take until its deadline, and
// the main thread must not wait for that. Answers are handed to the io_context.

#include <boost/asio/io_context.hpp>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "qmp/discovery.hpp"

namespace vmwhy::qmp_pausewatch {

class Scout {
 public:
  explicit Scout(boost::asio::io_context& io);
  /// Waits for the question being answered, at most the discovery's deadline. No handler is called
  /// afterwards.
  ~Scout();
  Scout(const Scout&) = delete;
  Scout& operator=(const Scout&) = delete;

  /// All QEMUs of this host.
  void find_all(std::function<void(std::vector<qmp::QemuProcess>)> handler);
  void inspect(std::uint32_t pid, std::function<void(qmp::Result<qmp::QemuProcess>)> handler);
  /// QEMUs that have come since the last scan, cheaply: of processes known to be something else only the pid
  /// is read again.
  void find_new(std::function<void(std::vector<qmp::QemuProcess>)> handler);

 private:
  void work();
  void enqueue(std::function<void()> task);
  void answer(std::function<void()> handler);
  std::vector<qmp::QemuProcess> scan();

  boost::asio::io_context& io_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stop_ = false;
  /// Touched by the thread only: how often a pid was looked at, and whether it is a QEMU.
  struct Seen {
    int looks = 0;
    bool qemu = false;
    bool here = false;
  };
  std::unordered_map<std::uint32_t, Seen> seen_;
  std::thread thread_;
};

}  // namespace vmwhy::qmp_pausewatch
