// SPDX-License-Identifier: BSD-2-Clause
#include "host/exit_status.hpp"

#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>

namespace vmwhy::host {
namespace {

namespace asio = boost::asio;

/// struct pidfd_info of linux/pidfd.h as of 6.15; older headers lack it.
struct PidfdInfo {
  std::uint64_t mask;
  std::uint64_t cgroup_id;
  std::uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
  std::int32_t exit_code;
  std::uint32_t coredump_mask, spare;
};
static_assert(sizeof(PidfdInfo) == 72);
constexpr std::uint64_t kInfoExit = 1u << 3;
constexpr unsigned long kGetInfo = _IOWR(0xFF, 11, PidfdInfo);

}  // namespace

trace::VmEnd decode_wait_status(std::uint32_t pid, std::int32_t status) {
  trace::VmEnd out{};
  out.pid = pid;
  if (WIFSIGNALED(status)) {
    out.how = static_cast<std::uint32_t>(trace::EndHow::signaled);
    out.status = WTERMSIG(status);
    out.core_dumped = WCOREDUMP(status) ? 1 : 0;
  } else if (WIFEXITED(status)) {
    out.how = static_cast<std::uint32_t>(trace::EndHow::exited);
    out.status = WEXITSTATUS(status);
  }
  return out;
}

Result<UniqueFd> open_pidfd(std::uint32_t pid) {
  const long fd = ::syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0u);
  if (fd < 0) return system_failure(errno, "process " + std::to_string(pid));
  return UniqueFd(static_cast<int>(fd));
}

std::optional<std::int32_t> exit_status_of(int pidfd) {
  PidfdInfo info{};
  info.mask = kInfoExit;
  if (::ioctl(pidfd, kGetInfo, &info) != 0 || (info.mask & kInfoExit) == 0) return std::nullopt;
  return info.exit_code;
}

bool pidfd_tells_exit() {
  static const bool tells = [] {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(7);
    if (child < 0) return false;
    const auto fd = open_pidfd(static_cast<std::uint32_t>(child));
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (!fd) return false;
    const auto told = exit_status_of(fd->get());
    return told && WIFEXITED(*told) && WEXITSTATUS(*told) == 7;
  }();
  return tells;
}

class ExitWatch::Impl : public std::enable_shared_from_this<ExitWatch::Impl> {
 public:
  Impl(asio::io_context& io, std::uint32_t pid, UniqueFd pidfd, ProcessConnector* connector, Handler handler)
      : stat_(pid),
        stream_(io, pidfd.release()),
        timer_(io),
        connector_(connector),
        handler_(std::move(handler)) {
    if (connector_) connector_->remember(pid);
  }

  void wait() {
    stream_.async_wait(asio::posix::stream_descriptor::wait_read,
                       [self = shared_from_this()](const boost::system::error_code& error) {
                         if (!error) self->ended();
                       });
  }

  void stop() {
    handler_ = nullptr;
    if (connector_) connector_->forget(stat_.pid());
    boost::system::error_code ignored;
    stream_.close(ignored);
    timer_.cancel();
  }

 private:
  /// The pidfd says "ended" when the process has become a zombie; its parent may or may not have reaped it.
  void ended() {
    if (!handler_) return;
    if (const auto status = exit_status_of(stream_.native_handle())) return tell(*status, "by its pidfd");
    if (const auto stat = stat_.sample(); stat && stat->state == 'Z' && stat->exit_code != 0)
      return tell(stat->exit_code, "by the zombie's /proc/PID/stat");
    if (connector_)
      if (const auto status = connector_->status_of(stat_.pid()))
        return tell(*status, "by the process connector");
    // Between zombie and reaped the pidfd does not tell yet; exit code 0 and "not permitted" look the same in
    // a zombie's stat.
    if (++tries_ < kTries) return again();
    trace::VmEnd end{};
    end.pid = stat_.pid();
    finish(end, "the process is gone; its exit status could not be read");
  }

  void again() {
    timer_.expires_after(std::chrono::milliseconds(10));
    timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
      if (!error) self->ended();
    });
  }

  void tell(std::int32_t status, const char* how) {
    finish(decode_wait_status(stat_.pid(), status), std::string("exit status known ") + how);
  }

  void finish(const trace::VmEnd& end, const std::string& how) {
    const Handler handler = std::move(handler_);
    handler_ = nullptr;
    handler(end, how);
  }

  static constexpr int kTries = 20;
  ProcessWatch stat_;
  asio::posix::stream_descriptor stream_;
  asio::steady_timer timer_;
  ProcessConnector* connector_;
  Handler handler_;
  int tries_ = 0;
};

Result<std::unique_ptr<ExitWatch>> ExitWatch::start(asio::io_context& io, std::uint32_t pid,
                                                    ProcessConnector* connector, Handler handler) {
  auto pidfd = open_pidfd(pid);
  if (!pidfd) return pidfd.error();
  auto impl = std::make_shared<Impl>(io, pid, std::move(*pidfd), connector, std::move(handler));
  impl->wait();
  return std::unique_ptr<ExitWatch>(new ExitWatch(std::move(impl)));
}

ExitWatch::ExitWatch(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
ExitWatch::~ExitWatch() {
  impl_->stop();
}

}  // namespace vmwhy::host
