// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-exits/command.hpp"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/text.hpp"

namespace vmwhy::kvm_exits {

Command::Command(boost::asio::io_context& io, std::function<void(int)> on_end)
    : child_(io, SIGCHLD), on_end_(std::move(on_end)) {}

Command::~Command() {
  if (pid_ > 0) ::kill(pid_, SIGTERM);
}

Result<void> Command::start(const std::vector<std::string>& words) {
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  // The tool ignores SIGPIPE; what it starts must not.
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t defaults;
  ::sigemptyset(&defaults);
  ::sigaddset(&defaults, SIGPIPE);
  ::posix_spawnattr_setsigdefault(&attributes, &defaults);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  const int error = ::posix_spawnp(&pid_, words[0].c_str(), nullptr, &attributes, argv.data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    pid_ = -1;
    return system_failure(error, "cannot run '" + printable(words[0]) + "'");
  }
  wait();
  return {};
}

void Command::wait() {
  child_.async_wait([this](boost::system::error_code failed, int) {
    if (failed) return;
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) != pid_) return wait();
    pid_ = -1;
    on_end_(status);
  });
}

}  // namespace vmwhy::kvm_exits
