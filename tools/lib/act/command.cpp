// SPDX-License-Identifier: BSD-2-Clause
#include "act/command.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

namespace vmwhy::act {

Result<Command> Command::start(const std::vector<std::string>& args, const Environment& more) {
  std::vector<std::string> variables;
  for (char** variable = environ; *variable; ++variable) variables.emplace_back(*variable);
  for (const auto& entry : more) variables.push_back(entry.first + "=" + entry.second);
  std::vector<char*> argv, envp;
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  for (const std::string& variable : variables) envp.push_back(const_cast<char*>(variable.c_str()));
  argv.push_back(nullptr);
  envp.push_back(nullptr);

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, 2, 1);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, defaults;
  sigemptyset(&none);
  sigemptyset(&defaults);
  for (const int number : {SIGINT, SIGTERM, SIGPIPE}) sigaddset(&defaults, number);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  // A reproduction must run as it would without us.
  const int own_nice = ::getpriority(PRIO_PROCESS, 0);
  if (own_nice == kWatcherNice) ::setpriority(PRIO_PROCESS, 0, 0);
  pid_t pid = -1;
  const int error = ::posix_spawnp(&pid, argv[0], &files, &attributes, argv.data(), envp.data());
  if (own_nice == kWatcherNice) ::setpriority(PRIO_PROCESS, 0, own_nice);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) return system_failure(error, args[0], "name a program that can be run here");
  return Command(pid);
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
