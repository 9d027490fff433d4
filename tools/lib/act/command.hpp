// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Programs that a run starts: the reproduction of --expect, and the commands of --then exec.

#include <sys/types.h>

#include <list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/failure.hpp"

namespace vmwhy::act {

/// What a run that began at nice 0 sets itself to, where it may. Its commands go back to 0.
inline constexpr int kWatcherNice = -10;

/// A program in a process group of its own; its standard output goes to our standard error, so that ours
/// stays a report. Ended with its group when this is destroyed, unless let_go() was called.
class Command {
 public:
  using Environment = std::vector<std::pair<std::string, std::string>>;

  /// Errors: errno of posix_spawnp with the program's name.
  static Result<Command> start(const std::vector<std::string>& args, const Environment& more = {});
  Command(Command&& other) noexcept;
  Command& operator=(Command&&) = delete;
  ~Command();

  /// The exit status once it has ended (128 + signal where a signal ended it). Does not wait.
  std::optional<int> ended();
  void let_go() { kill_ = false; }

 private:
  explicit Command(pid_t pid) : pid_(pid) {}
  pid_t pid_ = -1;
  bool kill_ = true;
  std::optional<int> status_;
};

/// The commands of --then exec: not waited for, and not ended with us.
class Commands {
 public:
  /// Has /bin/sh run it. Errors: as Command::start, and EAGAIN where too many run already.
  Result<void> start(const std::string& command, const Command::Environment& more);
  /// Forgets those that ended; call it now and then.
  void reap();

 private:
  std::list<Command> running_;
};

}  // namespace vmwhy::act
