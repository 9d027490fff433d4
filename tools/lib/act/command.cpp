// SPDX-License-Identifier: BSD-2-Clause
#include "act/command.hpp"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "core/spawn.hpp"

namespace vmwhy::act {

Result<Command> Command::start(const std::vector<std::string>& args, const Environment& more) {
  SpawnOptions options{.args = args, .environment = own_environment()};
  for (const auto& entry : more) options.environment.push_back(entry.first + "=" + entry.second);
  // A reproduction must run as it would without us.
  const int own_nice = ::getpriority(PRIO_PROCESS, 0);
  if (own_nice == kWatcherNice) ::setpriority(PRIO_PROCESS, 0, 0);
  const Result<pid_t> pid = spawn(options);
  if (own_nice == kWatcherNice) ::setpriority(PRIO_PROCESS, 0, own_nice);
  if (!pid) return pid.error();
  return Command(*pid);
}

Command::Command(Command&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), kill_(other.kill_), status_(other.status_) {}

std::optional<int> Command::ended() {
  if (status_ || pid_ < 0) return status_;
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
  status_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return status_;
}

Command::~Command() {
  if (pid_ < 0 || !kill_) return;
  // What it started may outlive it: the whole group goes.
  ::kill(-pid_, SIGCONT);
  ::kill(-pid_, SIGTERM);
  for (int i = 0; i < 100 && !ended(); ++i) ::usleep(10'000);
  ::kill(-pid_, SIGKILL);
  if (!status_) ::waitpid(pid_, nullptr, 0);
}

Result<void> Commands::start(const std::string& command, const Command::Environment& more) {
  constexpr std::size_t kMostRunning = 16;
  reap();
  if (running_.size() >= kMostRunning)
    return system_failure(EAGAIN, "too many commands run already: " + command, "use a shorter one");
  auto started = Command::start({"/bin/sh", "-c", command}, more);
  if (!started) return started.error();
  started->let_go();
  running_.push_back(std::move(*started));
  return {};
}

void Commands::reap() {
  running_.remove_if([](Command& command) { return command.ended().has_value(); });
}

}  // namespace vmwhy::act
