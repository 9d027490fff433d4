// SPDX-License-Identifier: BSD-2-Clause
#include "child_process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <system_error>

namespace vmwhy::test {

namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

struct Pipe {
  UniqueFd read, write;
  Pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) fail("pipe2");
    read.reset(fds[0]);
    write.reset(fds[1]);
  }
};

UniqueFd open_output(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!fd) fail("open " + path);
  return fd;
}

// What the child does between fork and exec: only async-signal-safe calls.
[[noreturn]] void become(char** argv, char** envp, const char* folder, const int (&fds)[3], pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(126);
  for (int i = 0; i < 3; ++i)
    if (::dup2(fds[i], i) < 0) ::_exit(126);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  if (folder != nullptr && ::chdir(folder) != 0) ::_exit(126);
  ::execvpe(argv[0], argv, envp);
  const char* text = ::strerror(errno);
  ::dprintf(2, "%s: %s\n", argv[0], text);
  ::_exit(127);
}

std::vector<std::string> merged_environment(const std::vector<std::pair<std::string, std::string>>& added) {
  std::vector<std::string> all;
  for (const auto& [name, value] : added) all.push_back(name + "=" + value);
  for (char** entry = environ; *entry != nullptr; ++entry) {
    bool replaced = false;
    for (const auto& [name, value] : added) replaced |= std::string_view(*entry).starts_with(name + "=");
    if (!replaced) all.emplace_back(*entry);
  }
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (auto& s : strings) result.push_back(s.data());
  result.push_back(nullptr);
  return result;
}

std::string in_folder(const char* variable, const char* below_build, std::string_view name) {
  const char* folder = std::getenv(variable);
  if (folder != nullptr && *folder != '\0') return std::string(folder) + "/" + std::string(name);
  const char* build = std::getenv("BUILD");
  return std::string(build != nullptr && *build != '\0' ? build : "build") + "/" + below_build + "/" +
         std::string(name);
}

}  // namespace

ChildProcess::ChildProcess(std::vector<std::string> args) : ChildProcess(Options{.args = std::move(args)}) {}

ChildProcess::ChildProcess(Options options) {
  auto environment = merged_environment(options.environment);
  auto argv = pointers(options.args), envp = pointers(environment);
  UniqueFd fds[3];
  if (options.stdin_pipe) {
    Pipe pipe;
    fds[0] = std::move(pipe.read);
    stdin_ = std::move(pipe.write);
  } else {
    fds[0].reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  }
  const auto output = [&](UniqueFd& fd, const std::string& file, Stream& stream) {
    if (!file.empty()) {
      fd = open_output(file);
      return;
    }
    Pipe pipe;
    fd = std::move(pipe.write);
    stream.fd = std::move(pipe.read);
    ::fcntl(stream.fd.get(), F_SETFL, O_NONBLOCK);
  };
  output(fds[1], options.stdout_file, stdout_);
  output(fds[2], options.stderr_file, stderr_);

  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) fail("fork");
  if (pid_ == 0)
    become(argv.data(), envp.data(), options.folder.empty() ? nullptr : options.folder.c_str(),
           {fds[0].get(), fds[1].get(), fds[2].get()}, parent);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      status_(other.status_),
      stdin_(std::move(other.stdin_)),
      stdout_(std::move(other.stdout_)),
      stderr_(std::move(other.stderr_)) {}

ChildProcess::~ChildProcess() {
  if (pid_ <= 0 || !running()) return;
  ::kill(pid_, SIGKILL);
  ::kill(pid_, SIGCONT);
  // A traced child reports stops before its end.
  for (int status = 0; ::waitpid(pid_, &status, 0) >= 0 || errno == EINTR;)
    if (WIFEXITED(status) || WIFSIGNALED(status)) break;
}

bool ChildProcess::running() {
  if (status_) return false;
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return true;
  if (WIFEXITED(status)) status_ = ExitStatus{WEXITSTATUS(status), 0};
  if (WIFSIGNALED(status)) status_ = ExitStatus{-1, WTERMSIG(status)};
  return !status_;
}

void ChildProcess::signal(int number) const {
  if (pid_ > 0 && !status_) ::kill(pid_, number);
}

void ChildProcess::drain(int timeout_ms) {
  pollfd fds[2] = {{stdout_.fd.get(), POLLIN, 0}, {stderr_.fd.get(), POLLIN, 0}};
  if (::poll(fds, 2, timeout_ms) <= 0) return;
  Stream* streams[2] = {&stdout_, &stderr_};
  for (int i = 0; i < 2; ++i) {
    if (fds[i].revents == 0) continue;
    char buffer[65536];
    const ssize_t got = ::read(fds[i].fd, buffer, sizeof buffer);
    if (got > 0) streams[i]->text.append(buffer, static_cast<std::size_t>(got));
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) streams[i]->fd.reset();
  }
}

std::optional<ExitStatus> ChildProcess::wait(TimePoint deadline) {
  while (running()) {
    if (left_ms(deadline) == 0) return std::nullopt;
    drain(5);
    if (!stdout_.fd && !stderr_.fd) wait_until(deadline_in(5ms), [] { return false; });
  }
  // What it wrote last is still in the pipes; a grandchild may hold them open, so do not wait for their end.
  for (std::size_t before = std::string::npos; before != stdout_.text.size() + stderr_.text.size();) {
    before = stdout_.text.size() + stderr_.text.size();
    drain(0);
  }
  return status_;
}

std::optional<std::string> ChildProcess::wait_line_of(Stream& stream,
                                                      const std::function<bool(std::string_view)>& wanted,
                                                      TimePoint deadline) {
  for (;;) {
    for (std::size_t end; (end = stream.text.find('\n', stream.taken)) != std::string::npos;) {
      std::string line = stream.text.substr(stream.taken, end - stream.taken);
      stream.taken = end + 1;
      if (wanted(line)) return line;
    }
    const int left = left_ms(deadline);
    if (!stream.fd || left == 0) return std::nullopt;
    drain(left);
  }
}

std::optional<std::string> ChildProcess::wait_line(const std::function<bool(std::string_view)>& wanted,
                                                   TimePoint deadline) {
  return wait_line_of(stdout_, wanted, deadline);
}

std::optional<std::string> ChildProcess::wait_line(std::string_view substring, TimePoint deadline) {
  return wait_line([&](std::string_view line) { return line.find(substring) != std::string_view::npos; },
                   deadline);
}

std::optional<std::string> ChildProcess::wait_error_line(std::string_view substring, TimePoint deadline) {
  return wait_line_of(
      stderr_, [&](std::string_view line) { return line.find(substring) != std::string_view::npos; },
      deadline);
}

void ChildProcess::write(std::string_view text) const {
  while (!text.empty()) {
    const ssize_t sent = ::write(stdin_.get(), text.data(), text.size());
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(sent));
  }
}

Output run_program(std::vector<std::string> args, TimePoint deadline) {
  ChildProcess child(std::move(args));
  auto status = child.wait(deadline);
  if (!status) {
    child.signal(SIGKILL);
    status = child.wait();
  }
  return {status.value_or(ExitStatus{-1, SIGKILL}), child.out(), child.err()};
}

std::string binary(std::string_view name) {
  return in_folder("VMWHY_BIN_DIR", "bin", name);
}
std::string guest(std::string_view name) {
  return in_folder("VMWHY_GUEST_DIR", "guests", name);
}

std::string program_path(const std::string& name) {
  const std::string path = run_program({"sh", "-c", "readlink -f \"$(command -v " + name + ")\""}).out;
  return path.substr(0, path.find('\n'));
}

}  // namespace vmwhy::test
