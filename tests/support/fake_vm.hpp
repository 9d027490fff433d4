// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A monitor that answers like a healthy QEMU without disks, and pauses when a test says so. It acts when it
// is asked query-status, which a watcher does every second.

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "fake_qmp_server.hpp"

namespace vmwhy::test {

class FakeVm {
 public:
  FakeVm(const std::string& path, std::string name);

  /// At the next query-status: STOP, and the run state `state` from then on.
  void pause(const std::string& state);
  /// At the next query-status: RESUME, running.
  void resume();
  /// At the next query-status: MIGRATION active. The throttle is 20 % when it is asked first, and then 60 %.
  void migrate() { migrates_ = true; }
  /// At the next query-status: hangs up, and greets nobody again.
  void vanish() { vanish_ = true; }
  /// query-status is not answered any more; everything else is.
  void stall() { stalled_ = true; }

  const std::string& address() const { return server_.address(); }
  /// Names of all commands received.
  std::vector<std::string> commands() const;

 private:
  void serve(Peer& peer);
  bool answer(Peer& peer, const std::string& line);

  std::string name_;
  mutable std::mutex mutex_;
  std::vector<std::string> commands_;
  std::string state_ = "running";
  std::string next_;
  std::atomic<bool> vanish_ = false;
  std::atomic<bool> stalled_ = false;
  std::atomic<bool> migrates_ = false;
  int throttle_ = 0;  ///< Percent; 0: no migration is under way.
  FakeQmpServer server_;
};

}  // namespace vmwhy::test
