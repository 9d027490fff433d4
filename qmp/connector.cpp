// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/connector.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/ip/address.hpp>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <cstring>

namespace vmwhy::qmp {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr std::chrono::milliseconds kBacklogRetry{50};

// @return 0 or an errno. A full backlog is EAGAIN: there is no pending connect to wait for, unlike with TCP.
int connect_unix_fd(int fd, const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const bool abstract = path[0] == '@';
  if (path.size() < sizeof address.sun_path) {
    std::memcpy(address.sun_path, path.data(), path.size());
    if (abstract) address.sun_path[0] = '\0';
    // An abstract name is as long as it says; a path ends with its NUL.
    const auto length = offsetof(sockaddr_un, sun_path) + path.size() + (abstract ? 0 : 1);
    return ::connect(fd, reinterpret_cast<sockaddr*>(&address), static_cast<socklen_t>(length)) == 0 ? 0
                                                                                                     : errno;
  }
  if (abstract) return ENAMETOOLONG;
  // A path longer than sockaddr_un holds (a container's, through /proc/PID/root) goes by a file descriptor.
  const int file = ::open(path.c_str(), O_PATH | O_CLOEXEC);
  if (file < 0) return errno;
  const std::string link = "/proc/self/fd/" + std::to_string(file);
  std::memcpy(address.sun_path, link.c_str(), link.size() + 1);
  const int result = ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 ? 0 : errno;
  ::close(file);
  return result;
}

bool is_socket_file(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode);
}

}  // namespace

Connector::Connector(asio::io_context& io, Address address, std::chrono::milliseconds deadline)
    : io_(io), address_(std::move(address)), deadline_(deadline), socket_(io), timer_(io) {}

void Connector::start(Handler handler) {
  handler_ = std::move(handler);
  end_ = std::chrono::steady_clock::now() + deadline_;
  if (address_.kind == Address::Kind::unix_socket)
    connect_unix();
  else
    resolve();
}

void Connector::cancel() {
  handler_ = nullptr;
  timer_.cancel();
  if (resolver_) resolver_->cancel();
  error_code ignored;
  socket_.close(ignored);
}

void Connector::finish(Result<Socket*> result) {
  if (!handler_) return;
  timer_.cancel();
  if (resolver_) resolver_->cancel();
  auto handler = std::move(handler_);
  handler_ = nullptr;
  handler(std::move(result));
}

Failure Connector::failure(int error) const {
  const std::string name = address_.to_string();
  const auto make = [](Errc code, std::string context) {
    return Failure{make_error_code(code), std::move(context), {}, {}};
  };
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return make(Errc::no_socket, name + " does not exist");
    case ECONNREFUSED:
      if (address_.kind == Address::Kind::unix_socket && address_.path[0] != '@' &&
          !is_socket_file(address_.path))
        return make(Errc::no_socket, name + " is not a socket");
      return make(Errc::no_socket, "nobody listens on " + name);
    case EACCES:
    case EPERM:
      return make(Errc::no_permission, name);
    case EPROTOTYPE:
      return make(Errc::not_qmp, name + " is not a stream socket");
    case EAGAIN:
      return make(
          Errc::connect_timeout,
          name +
              ": the listener's backlog is full, its process accepts nobody; another client holds the "
              "monitor, or QEMU is stuck");
    case ETIMEDOUT:
      return make(Errc::connect_timeout, name);
    default:
      return {error_code(error, boost::system::system_category()), name, {}, {}};
  }
}

void Connector::connect_unix() {
  error_code error;
  if (!socket_.is_open()) socket_.open(asio::generic::stream_protocol(AF_UNIX, 0), error);
  if (!error) socket_.native_non_blocking(true, error);
  const int result = error ? error.value() : connect_unix_fd(socket_.native_handle(), address_.path);
  const auto now = std::chrono::steady_clock::now();
  if (result == EAGAIN && now < end_) {
    timer_.expires_at(std::min(end_, now + kBacklogRetry));
    timer_.async_wait([self = shared_from_this()](error_code stopped) {
      if (!stopped && self->handler_) self->connect_unix();
    });
    return;
  }
  if (result != 0)
    finish(failure(result));
  else
    finish(&socket_);
}

void Connector::resolve() {
  arm_deadline();
  error_code error;
  const auto numeric = asio::ip::make_address(address_.host, error);
  if (!error) {
    endpoints_.emplace_back(numeric, static_cast<std::uint16_t>(std::stoul(address_.port)));
    connect_tcp(0);
    return;
  }
  resolver_ = std::make_unique<asio::ip::tcp::resolver>(io_);
  resolver_->async_resolve(
      address_.host, address_.port, [self = shared_from_this()](error_code failed, const auto& results) {
        if (!self->handler_) return;
        if (failed) {
          self->finish(Failure{make_error_code(Errc::no_socket),
                               self->address_.to_string() + " (" + failed.message() + ")",
                               {},
                               {}});
          return;
        }
        for (const auto& entry : results) self->endpoints_.push_back(entry.endpoint());
        self->connect_tcp(0);
      });
}

void Connector::arm_deadline() {
  timer_.expires_at(end_);
  timer_.async_wait([self = shared_from_this()](error_code stopped) {
    if (stopped || !self->handler_) return;
    error_code ignored;
    self->socket_.close(ignored);
    self->finish(self->failure(ETIMEDOUT));
  });
}

void Connector::connect_tcp(std::size_t index) {
  if (index >= endpoints_.size()) {
    finish(failure(last_error_ != 0 ? last_error_ : EHOSTUNREACH));
    return;
  }
  const auto& endpoint = endpoints_[index];
  error_code error;
  socket_.close(error);
  socket_.open(asio::generic::stream_protocol(endpoint.protocol().family(), IPPROTO_TCP), error);
  if (error) {
    last_error_ = error.value();
    connect_tcp(index + 1);
    return;
  }
  socket_.async_connect(asio::generic::stream_protocol::endpoint(endpoint),
                        [self = shared_from_this(), index](error_code failed) {
                          if (!self->handler_ || failed == asio::error::operation_aborted) return;
                          if (failed) {
                            self->last_error_ = failed.value();
                            self->connect_tcp(index + 1);
                            return;
                          }
                          error_code ignored;
                          self->socket_.native_non_blocking(true, ignored);
                          self->finish(&self->socket_);
                        });
}

}  // namespace vmwhy::qmp
