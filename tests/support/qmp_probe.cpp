// SPDX-License-Identifier: BSD-2-Clause
#include "qmp_probe.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace vmwhy::test {

namespace json = boost::json;

namespace {

UniqueFd connect_to(const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) throw std::runtime_error(path + ": too long for a socket");
  std::memcpy(address.sun_path, path.data(), path.size());
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) fd.reset();
  return fd;
}

}  // namespace

QmpProbe::QmpProbe(const std::string& socket, bool oob, TimePoint deadline) {
  if (!wait_until(deadline, [&] { return bool(fd_ = connect_to(socket)); }))
    throw std::runtime_error(socket + ": nobody listens");
  const auto greeting = receive(deadline);
  if (!greeting || !greeting->contains("QMP")) throw std::runtime_error(socket + ": no greeting");
  json::object arguments;
  if (oob) arguments["enable"] = json::array{"oob"};
  const auto reply = call("qmp_capabilities", arguments, deadline);
  if (reply.contains("error")) throw std::runtime_error(json::serialize(reply));
}

void QmpProbe::send_message(const json::object& message) {
  const std::string text = json::serialize(message) + "\n";
  for (std::string_view rest = text; !rest.empty();) {
    const ssize_t sent = ::send(fd_.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) throw std::runtime_error(std::string("QMP send: ") + std::strerror(errno));
    rest.remove_prefix(static_cast<std::size_t>(sent));
  }
}

std::optional<json::object> QmpProbe::receive(TimePoint deadline) {
  for (;;) {
    if (const auto end = buffer_.find('\n'); end != std::string::npos) {
      auto message = json::parse(std::string_view(buffer_).substr(0, end)).as_object();
      buffer_.erase(0, end + 1);
      return message;
    }
    pollfd wait{fd_.get(), POLLIN, 0};
    if (!fd_ || ::poll(&wait, 1, left_ms(deadline)) <= 0) return std::nullopt;
    char bytes[65536];
    const ssize_t got = ::recv(fd_.get(), bytes, sizeof bytes, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      fd_.reset();
      return std::nullopt;
    }
    buffer_.append(bytes, static_cast<std::size_t>(got));
  }
}

void QmpProbe::keep(json::object event) {
  names_.emplace_back(event.at("event").as_string());
  events_.push_back(std::move(event));
}

json::object QmpProbe::exchange(const char* key, std::string_view command, const json::object& arguments,
                                TimePoint deadline) {
  const std::uint64_t id = ++last_id_;
  json::object message{{key, command}, {"id", id}};
  if (!arguments.empty()) message["arguments"] = arguments;
  send_message(message);
  while (auto reply = receive(deadline)) {
    if (reply->contains("event")) {
      keep(std::move(*reply));
      continue;
    }
    const auto* reply_id = reply->if_contains("id");
    if (reply_id != nullptr && reply_id->to_number<std::uint64_t>() == id) return std::move(*reply);
  }
  throw std::runtime_error("no reply to " + std::string(command));
}

json::object QmpProbe::call(std::string_view command, const json::object& arguments, TimePoint deadline) {
  return exchange("execute", command, arguments, deadline);
}

json::object QmpProbe::call_oob(std::string_view command, const json::object& arguments) {
  return exchange("exec-oob", command, arguments, deadline_in());
}

void QmpProbe::send(std::string_view command, const json::object& arguments) {
  json::object message{{"execute", command}, {"id", ++last_id_}};
  if (!arguments.empty()) message["arguments"] = arguments;
  send_message(message);
}

std::optional<json::object> QmpProbe::wait_event(std::string_view name, TimePoint deadline) {
  for (std::size_t at = 0;;) {
    for (; at < events_.size(); ++at) {
      if (events_[at].at("event").as_string() != name) continue;
      auto event = std::move(events_[at]);
      events_.erase(events_.begin() + static_cast<std::ptrdiff_t>(at));
      return event;
    }
    auto message = receive(deadline);
    if (!message) return std::nullopt;
    if (message->contains("event")) keep(std::move(*message));
  }
}

}  // namespace vmwhy::test
