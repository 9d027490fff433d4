// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A program that a test runs. It dies with the test (PR_SET_PDEATHSIG: start it from the thread that outlives
// it) and is always reaped. Use from one thread.

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/unique_fd.hpp"
#include "wait.hpp"

namespace vmwhy::test {

struct ExitStatus {
  int code = -1;   ///< exit(2)'s; -1 when a signal ended it.
  int signal = 0;  ///< 0 when it exited by itself.
};

class ChildProcess {
 public:
  struct Options {
    std::vector<std::string> args;  ///< args[0] is looked for in PATH.
    std::string stdout_file;        ///< Empty: a pipe, read by wait_line and out().
    std::string stderr_file;        ///< Empty: a pipe, read by err().
    bool stdin_pipe = false;        ///< Otherwise /dev/null.
    std::vector<std::pair<std::string, std::string>> environment;  ///< Added to ours.
    std::string folder;                                            ///< Empty: ours.
  };

  /// @throws std::system_error when it cannot be started; "no such program" is exit status 127.
  explicit ChildProcess(Options options);
  explicit ChildProcess(std::vector<std::string> args);
  ChildProcess(ChildProcess&&) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess();  ///< SIGKILL (after SIGCONT), and reaped.

  pid_t pid() const { return pid_; }
  bool running();
  void signal(int number) const;

  /// Exit status, or nothing when the deadline passed. Keeps draining the pipes meanwhile.
  std::optional<ExitStatus> wait(TimePoint deadline);
  std::optional<ExitStatus> wait() { return wait(deadline_in()); }

  /// The next complete line of stdout that satisfies `wanted`, without its newline; lines before it are
  /// passed over. Nothing: the deadline passed, or stdout ended.
  std::optional<std::string> wait_line(const std::function<bool(std::string_view)>& wanted,
                                       TimePoint deadline = deadline_in());
  std::optional<std::string> wait_line(std::string_view substring, TimePoint deadline = deadline_in());
  /// The same for stderr.
  std::optional<std::string> wait_error_line(std::string_view substring, TimePoint deadline = deadline_in());

  void write(std::string_view text) const;  ///< To stdin.
  void close_stdin() { stdin_.reset(); }
  void close_stdout() { stdout_.fd.reset(); }  ///< As a reader that went away.

  /// All that came so far.
  const std::string& out() const { return stdout_.text; }
  const std::string& err() const { return stderr_.text; }

 private:
  struct Stream {
    UniqueFd fd;
    std::string text;
    std::size_t taken = 0;  ///< Lines before this were given to wait_line.
  };
  std::optional<std::string> wait_line_of(Stream& stream, const std::function<bool(std::string_view)>& wanted,
                                          TimePoint deadline);
  void drain(int timeout_ms);

  pid_t pid_ = -1;
  std::optional<ExitStatus> status_;
  UniqueFd stdin_;
  Stream stdout_, stderr_;
};

struct Output {
  ExitStatus status;
  std::string out, err;
};

/// Runs a program to its end. Past the deadline it is killed, and status.signal is SIGKILL.
Output run_program(std::vector<std::string> args, TimePoint deadline = deadline_in());
/// Where PATH leads to for this name, without symbolic links; empty: nowhere.
std::string program_path(const std::string& name);

/// The path of one of our binaries: $VMWHY_BIN_DIR/NAME, else $BUILD/bin/NAME, else build/bin/NAME.
std::string binary(std::string_view name);

/// The path of a guest: $VMWHY_GUEST_DIR/NAME, else $BUILD/guests/NAME, else build/guests/NAME.
std::string guest(std::string_view name);

}  // namespace vmwhy::test
