// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What drills of QEMU's own functions share.

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <string>
#include <vector>

#include "core/unique_fd.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"
#include "watcher.hpp"

namespace vmwhy::test {

/// Waits until somebody listens there.
inline UniqueFd connect_to(const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  const auto* where = reinterpret_cast<const sockaddr*>(&address);
  EXPECT_TRUE(wait_until([&] { return ::connect(fd.get(), where, sizeof(address)) == 0; })) << path;
  return fd;
}

/// A human monitor on a socket of its own, which no tap listens to.
class HumanMonitor {
 public:
  explicit HumanMonitor(const TempDir& dir, const std::string& name = "hmp") : path_(dir / name) {}
  std::vector<std::string> arguments() const { return {"-monitor", "unix:" + path_ + ",server=on,wait=off"}; }
  const std::string& path() const { return path_; }
  void type(const std::string& line) {
    if (!fd_) fd_ = connect_to(path_);
    const std::string text = line + "\n";
    ASSERT_EQ(::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }

 private:
  std::string path_;
  UniqueFd fd_;
};

/// Waits until the trace has this text.
inline bool wait_in_trace(Watcher& watch, const std::string& text) {
  return wait_until([&] {
    return run_program({binary("vm-trace"), "cat", watch.trace()}).out.find(text) != std::string::npos;
  });
}

/// Waits until the breakpoints are set, as the trace tells.
inline bool follows_calls(Watcher& watch) {
  return wait_in_trace(watch, "are followed\"");
}

}  // namespace vmwhy::test
