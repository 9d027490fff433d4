// SPDX-License-Identifier: BSD-2-Clause
#include "bpf/load/uprobes.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <map>

namespace vmwhy::bpf {
namespace {

using What = Uprobes::News::What;

/// A thread that is in uninterruptible sleep, and has not run within this, is stuck.
constexpr std::chrono::milliseconds kLook{200};
/// How long the helper waits before it looks again at processes of which one is stuck.
constexpr std::chrono::milliseconds kAgain{1000};

std::string read_small(const std::string& path) {
  char text[512];
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  const ssize_t got = ::read(fd, text, sizeof(text));
  ::close(fd);
  return got > 0 ? std::string(text, static_cast<std::size_t>(got)) : std::string();
}

std::vector<std::string> numbers_in(const std::string& folder) {
  std::vector<std::string> out;
  DIR* directory = ::opendir(folder.c_str());
  if (directory == nullptr) return out;
  while (const dirent* entry = ::readdir(directory))
    if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9') out.emplace_back(entry->d_name);
  ::closedir(directory);
  return out;
}

/// The state of a thread: the letter behind the name, which may hold anything.
char state_of(const std::string& stat) {
  const std::size_t end = stat.rfind(')');
  return end != std::string::npos && end + 2 < stat.size() ? stat[end + 2] : '?';
}

/// Threads in uninterruptible sleep of processes that run that file: their folder, and how often they ran.
std::map<std::string, std::string> sleepers(const struct stat& file) {
  std::map<std::string, std::string> out;
  for (const std::string& pid : numbers_in("/proc")) {
    const std::string process = "/proc/" + pid, threads = process + "/task";
    struct stat exe {};
    if (::stat((process + "/exe").c_str(), &exe) != 0) continue;
    if (exe.st_dev != file.st_dev || exe.st_ino != file.st_ino) continue;
    for (const std::string& tid : numbers_in(threads)) {
      std::string thread = threads;
      thread.append("/").append(tid);
      if (state_of(read_small(thread + "/stat")) == 'D') out[thread] = read_small(thread + "/schedstat");
    }
  }
  return out;
}

/// What the helper process does. It holds the events; the kernel lets go of them when it ends.
class Helper {
 public:
  Helper(int socket, int program, const std::string& path, const std::vector<UprobePlace>& places,
         std::uint32_t type)
      : socket_(socket), program_(program), path_(path), places_(places), type_(type) {}

  void run() {
    if (::stat(path_.c_str(), &file_) != 0) return tell(What::failed, 0, errno);
    for (std::uint32_t told = 0;;) {
      const std::uint32_t stuck = stuck_process();
      if (stuck == 0) break;
      if (stuck != told) tell(What::waiting, stuck, 0);
      told = stuck;
      if (ended_within(kAgain)) return;
    }
    attach();
    while (!ended_within(std::chrono::hours(1))) {
    }
    while (stuck_process() != 0) ::poll(nullptr, 0, static_cast<int>(kAgain.count()));
  }

 private:
  /// @return a process of which a thread is stuck; 0: there is none.
  std::uint32_t stuck_process() {
    const auto before = sleepers(file_);
    if (before.empty()) return 0;
    ::poll(nullptr, 0, static_cast<int>(kLook.count()));
    for (const auto& [folder, runs] : sleepers(file_)) {
      const auto found = before.find(folder);
      if (found == before.end() || found->second != runs) continue;
      std::uint32_t pid = 0;
      const std::string_view number = std::string_view(folder).substr(6);
      std::from_chars(number.data(), number.data() + number.size(), pid);
      return pid;
    }
    return 0;
  }

  void attach() {
    std::uint32_t attached = 0;
    int error = 0;
    for (const UprobePlace& place : places_) {
      if (attach_one(place))
        ++attached;
      else
        error = errno;
    }
    tell(attached != 0 ? What::attached : What::failed, attached, error);
  }

  bool attach_one(const UprobePlace& place) const {
    perf_event_attr event{};
    event.size = sizeof(event);
    event.type = type_;
    event.config1 = reinterpret_cast<std::uint64_t>(path_.c_str());
    event.config2 = place.file_offset;
    const auto fd = static_cast<int>(
        ::syscall(SYS_perf_event_open, &event, -1, 0, -1, static_cast<unsigned long>(PERF_FLAG_FD_CLOEXEC)));
    if (fd < 0) return false;
    bpf_attr link{};
    link.link_create.prog_fd = static_cast<std::uint32_t>(program_);
    link.link_create.target_fd = static_cast<std::uint32_t>(fd);
    link.link_create.attach_type = BPF_PERF_EVENT;
    link.link_create.perf_event.bpf_cookie = place.cookie;
    if (::syscall(SYS_bpf, BPF_LINK_CREATE, &link, sizeof(link)) >= 0) return true;
    const int error = errno;
    ::close(fd);
    errno = error;
    return false;
  }

  /// Whether our parent has let go of us, or has died.
  bool ended_within(std::chrono::milliseconds time) const {
    pollfd wanted{socket_, POLLIN, 0};
    const int got = ::poll(&wanted, 1, static_cast<int>(time.count()));
    return got > 0 && (wanted.revents & (POLLHUP | POLLERR | POLLIN)) != 0;
  }

  void tell(What what, std::uint32_t value, int error) const {
    const Uprobes::News news{what, value, error};
    if (::send(socket_, &news, sizeof(news), MSG_NOSIGNAL) < 0) return;
  }

  int socket_, program_;
  const std::string& path_;
  const std::vector<UprobePlace>& places_;
  std::uint32_t type_;
  struct stat file_ {};
};

/// Keeps `socket` and `program` alone, as 3 and 4: a helper must hold no monitor and no trace of ours open.
void keep_only(int& socket, int& program) {
  const int high_socket = ::fcntl(socket, F_DUPFD, 5), high_program = ::fcntl(program, F_DUPFD, 5);
  socket = ::dup2(high_socket, 3);
  program = ::dup2(high_program, 4);
  ::close_range(5, ~0u, 0);
  // Whoever reads what our parent prints waits for its end, not for ours.
  const int nothing = ::open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3 && nothing >= 0; ++fd) ::dup2(nothing, fd);
  if (nothing > 4) ::close(nothing);
}

[[noreturn]] void be_helper(int socket, int program, const std::string& path,
                            const std::vector<UprobePlace>& places, std::uint32_t type) {
  keep_only(socket, program);
  // Out of reach of the terminal's signals: it ends with its parent, in its own time.
  ::setsid();
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(number, SIG_IGN);
  ::prctl(PR_SET_NAME, "vmwhy-uprobes");
  Helper(socket, program, path, places, type).run();
  ::_exit(0);
}

}  // namespace

Result<std::unique_ptr<Uprobes>> Uprobes::start(int program_fd, const std::string& path,
                                                const std::vector<UprobePlace>& places) {
  std::uint32_t type = 0;
  const std::string number = read_small("/sys/bus/event_source/devices/uprobe/type");
  if (std::from_chars(number.data(), number.data() + number.size(), type).ec != std::errc())
    return system_failure(ENODEV, "this kernel has no uprobes", "a kernel with CONFIG_UPROBE_EVENTS");
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return system_failure(errno, "cannot start the helper that attaches to QEMU's functions");
  // Twice, so that nobody has to wait for it at its end.
  const pid_t child = ::fork();
  if (child == 0) {
    if (::fork() == 0) be_helper(ends[1], program_fd, path, places, type);
    ::_exit(0);
  }
  const int error = errno;
  ::close(ends[1]);
  if (child < 0) {
    ::close(ends[0]);
    return system_failure(error, "cannot start the helper that attaches to QEMU's functions");
  }
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  return std::unique_ptr<Uprobes>(new Uprobes(ends[0]));
}

Uprobes::~Uprobes() {
  ::close(socket_);
}

std::optional<Uprobes::News> Uprobes::read() {
  News news{};
  const ssize_t got = ::recv(socket_, &news, sizeof(news), MSG_DONTWAIT);
  if (got == 0) return News{What::ended, 0, 0};
  if (got != sizeof(news)) return std::nullopt;
  return news;
}

std::optional<Uprobes::News> Uprobes::wait(std::chrono::milliseconds at_most) {
  pollfd wanted{socket_, POLLIN, 0};
  if (::poll(&wanted, 1, static_cast<int>(at_most.count())) <= 0) return std::nullopt;
  return read();
}

}  // namespace vmwhy::bpf
