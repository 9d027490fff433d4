// SPDX-License-Identifier: BSD-2-Clause
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <optional>

#include "host/exit_status.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::host {
namespace {

using namespace std::chrono_literals;

/// A child that waits on a pipe, then ends in the way asked for.
class Doomed {
 public:
  explicit Doomed(int exit_code, int signal = 0) {
    int pipe_fds[2];
    if (::pipe(pipe_fds) != 0) throw std::runtime_error("pipe");
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(pipe_fds[1]);
      char byte;
      if (::read(pipe_fds[0], &byte, 1) < 0) ::_exit(99);
      const rlimit no_core{0, 0};
      ::setrlimit(RLIMIT_CORE, &no_core);
      if (signal != 0) ::raise(signal);
      ::_exit(exit_code);
    }
    ::close(pipe_fds[0]);
    release_ = pipe_fds[1];
  }
  ~Doomed() {
    let_go();
    reap();
  }
  void let_go() {
    if (release_ >= 0) ::close(release_);
    release_ = -1;
  }
  void reap() {
    if (!reaped_) ::waitpid(pid_, nullptr, 0);
    reaped_ = true;
  }
  std::uint32_t pid() const { return static_cast<std::uint32_t>(pid_); }

 private:
  pid_t pid_ = -1;
  int release_ = -1;
  bool reaped_ = false;
};

trace::VmEnd watch(Doomed& doomed, ProcessConnector* connector, boost::asio::io_context& io,
                   bool reap_first) {
  std::optional<trace::VmEnd> end;
  auto watch = ExitWatch::start(io, doomed.pid(), connector,
                                [&](const trace::VmEnd& told, const std::string&) { end = told; });
  EXPECT_TRUE(watch);
  doomed.let_go();
  if (reap_first) doomed.reap();
  const auto deadline = test::deadline_in();
  while (!end && std::chrono::steady_clock::now() < deadline) {
    io.restart();
    io.run_for(10ms);
  }
  EXPECT_TRUE(end);
  return end.value_or(trace::VmEnd{});
}

TEST(HostExit, TakesAWaitStatusApart) {
  trace::VmEnd end = decode_wait_status(5, 3 << 8);
  EXPECT_EQ(end.how, static_cast<std::uint32_t>(trace::EndHow::exited));
  EXPECT_EQ(end.status, 3);
  end = decode_wait_status(5, SIGSEGV | 0x80);
  EXPECT_EQ(end.how, static_cast<std::uint32_t>(trace::EndHow::signaled));
  EXPECT_EQ(end.status, SIGSEGV);
  EXPECT_EQ(end.core_dumped, 1u);
}

TEST(HostExit, TellsTheSignalThatEndedAZombie) {
  boost::asio::io_context io;
  Doomed doomed(0, SIGKILL);
  const auto end = watch(doomed, nullptr, io, false);
  EXPECT_EQ(end.how, static_cast<std::uint32_t>(trace::EndHow::signaled));
  EXPECT_EQ(end.status, SIGKILL);
  EXPECT_EQ(end.pid, doomed.pid());
}

TEST(HostExit, TellsTheExitStatusOfAZombie) {
  boost::asio::io_context io;
  Doomed doomed(3);
  const auto end = watch(doomed, nullptr, io, false);
  EXPECT_EQ(end.how, static_cast<std::uint32_t>(trace::EndHow::exited));
  EXPECT_EQ(end.status, 3);
}

TEST(HostExit, TellsTheEndOfAProcessThatWasReapedAtOnce) {
  boost::asio::io_context io;
  Doomed doomed(4);
  const auto end = watch(doomed, nullptr, io, true);
  if (!pidfd_tells_exit()) {
    EXPECT_EQ(end.how, static_cast<std::uint32_t>(trace::EndHow::unknown));
    return;
  }
  EXPECT_EQ(end.how, static_cast<std::uint32_t>(trace::EndHow::exited));
  EXPECT_EQ(end.status, 4);
}

TEST(HostExit, ProcessConnectorTellsWhatPidfdDoesNot) {
  VMWHY_NEEDS(proc_events);
  boost::asio::io_context io;
  auto connector = ProcessConnector::open(io);
  ASSERT_TRUE(connector) << to_string(connector.error());
  Doomed doomed(6);
  (*connector)->remember(doomed.pid());
  doomed.let_go();
  doomed.reap();
  EXPECT_TRUE(test::wait_until([&] { return (*connector)->status_of(doomed.pid()).has_value(); }));
  EXPECT_EQ(WEXITSTATUS(*(*connector)->status_of(doomed.pid())), 6);
}

TEST(HostExit, AProcessThatIsGoneCannotBeWatched) {
  boost::asio::io_context io;
  EXPECT_FALSE(ExitWatch::start(io, 0x7ffffff0, nullptr, [](const trace::VmEnd&, const std::string&) {}));
}

}  // namespace
}  // namespace vmwhy::host
