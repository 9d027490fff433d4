// SPDX-License-Identifier: BSD-2-Clause
#include "fake_qmp_server.hpp"

#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <thread>

namespace vmwhy::test {
namespace {

namespace json = boost::json;

json::object parse_object(std::string_view line) {
  boost::system::error_code error;
  json::value value = json::parse(line, error);
  return !error && value.is_object() ? value.get_object() : json::object();
}

void require(bool ok, const char* what) {
  if (!ok) throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

}  // namespace

std::string command_name(std::string_view line) {
  const json::object object = parse_object(line);
  const json::value* name = object.if_contains("execute");
  if (!name) name = object.if_contains("exec-oob");
  return name && name->is_string() ? std::string(name->get_string()) : std::string();
}

bool Peer::wait(short events) {
  for (;;) {
    pollfd fds[2] = {{fd_, events, 0}, {stop_fd_, POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 && errno == EINTR) continue;
    if (fds[1].revents != 0) return false;
    return fds[0].revents != 0;
  }
}

bool Peer::send(std::string_view bytes) {
  while (!bytes.empty()) {
    if (!wait(POLLOUT)) return false;
    const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

std::optional<std::string> Peer::read_line() {
  for (;;) {
    const std::size_t end = buffer_.find('\n');
    if (end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    if (!wait(POLLIN)) return std::nullopt;
    char bytes[4096];
    const ssize_t got = ::recv(fd_, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (got <= 0) return std::nullopt;
    buffer_.append(bytes, static_cast<std::size_t>(got));
  }
}

bool Peer::negotiate() {
  if (!send(kGreeting)) return false;
  const auto line = read_line();
  return line && reply(*line, json::object());
}

bool Peer::reply(std::string_view command, const json::value& value) {
  json::object message;
  message["return"] = value;
  if (const json::object parsed = parse_object(command); parsed.contains("id"))
    message["id"] = parsed.at("id");
  return send(json::serialize(message) + "\r\n");
}

bool Peer::reply_error(std::string_view command, std::string_view error_class, std::string_view text) {
  json::object message;
  message["error"] = json::object{{"class", error_class}, {"desc", text}};
  if (const json::object parsed = parse_object(command); parsed.contains("id"))
    message["id"] = parsed.at("id");
  return send(json::serialize(message) + "\r\n");
}

bool Peer::event(std::string_view name, const json::object& data) {
  json::object message;
  message["timestamp"] = json::object{{"seconds", 1700000000}, {"microseconds", 123456}};
  message["event"] = name;
  if (!data.empty()) message["data"] = data;
  return send(json::serialize(message) + "\r\n");
}

void Peer::serve(
    const std::function<std::optional<json::value>(std::string_view, const json::object&)>& answer) {
  while (const auto line = read_line()) {
    const json::object parsed = parse_object(*line);
    const json::value* arguments = parsed.if_contains("arguments");
    const auto value = answer(command_name(*line),
                              arguments && arguments->is_object() ? arguments->get_object() : json::object());
    if (value)
      reply(*line, *value);
    else
      reply_error(*line, "CommandNotFound", "The command " + command_name(*line) + " has not been found");
  }
}

void Peer::stay_silent() {
  while (read_line()) {
  }
}

class FakeQmpServer::Impl {
 public:
  Impl(int listener, Script script)
      : listener_(listener), stop_(::eventfd(0, EFD_CLOEXEC)), script_(std::move(script)) {
    if (script_) thread_ = std::thread([this] { run(); });
  }
  ~Impl() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(stop_, &one, sizeof one);
    if (thread_.joinable()) thread_.join();
    ::close(listener_);
    ::close(stop_);
  }

 private:
  void run() {
    for (;;) {
      pollfd fds[2] = {{listener_, POLLIN, 0}, {stop_, POLLIN, 0}};
      if (::poll(fds, 2, -1) < 0 && errno == EINTR) continue;
      if (fds[1].revents != 0) return;
      const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) continue;
      Peer peer(fd, stop_);
      script_(peer);
      ::close(fd);
    }
  }

  int listener_;
  int stop_;
  Script script_;
  std::thread thread_;
};

FakeQmpServer::FakeQmpServer(std::string path, Script script, int backlog) : address_(std::move(path)) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  require(fd >= 0, "socket");
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  if (address_.size() >= sizeof name.sun_path) throw std::runtime_error("the socket's path is too long");
  std::memcpy(name.sun_path, address_.data(), address_.size());
  std::size_t length = sizeof name;
  if (address_[0] == '@') {
    name.sun_path[0] = '\0';
    length = offsetof(sockaddr_un, sun_path) + address_.size();
  } else {
    ::unlink(address_.c_str());
  }
  require(::bind(fd, reinterpret_cast<sockaddr*>(&name), static_cast<socklen_t>(length)) == 0, "bind");
  require(::listen(fd, backlog) == 0, "listen");
  impl_ = std::make_unique<Impl>(fd, std::move(script));
}

FakeQmpServer::FakeQmpServer(Script script) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  require(fd >= 0, "socket");
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof name;
  require(::bind(fd, reinterpret_cast<sockaddr*>(&name), length) == 0, "bind");
  require(::listen(fd, 8) == 0, "listen");
  require(::getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length) == 0, "getsockname");
  address_ = "tcp:127.0.0.1:" + std::to_string(ntohs(name.sin_port));
  impl_ = std::make_unique<Impl>(fd, std::move(script));
}

FakeQmpServer::~FakeQmpServer() = default;

}  // namespace vmwhy::test
