// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A QMP server that does what a script says, well or badly. Serves one client after another on a thread of
// its own, as QEMU does: while a script runs, the next client waits in the backlog.

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace vmwhy::test {

inline constexpr std::string_view kGreeting =
    R"({"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2"}, )"
    R"("capabilities": ["oob"]}})"
    "\r\n";

/// The connection that a script talks to. Everything returns at once when the server is being stopped.
class Peer {
 public:
  Peer(int fd, int stop_fd) : fd_(fd), stop_fd_(stop_fd) {}

  /// @return false if the client has gone, or the server is being stopped.
  bool send(std::string_view bytes);
  /// Without its end; nothing at the end of the stream.
  std::optional<std::string> read_line();
  /// Sends the greeting and answers qmp_capabilities.
  bool negotiate();
  /// {"return": VALUE, "id": ID} with the id of `command`, a line that was read.
  bool reply(std::string_view command, const boost::json::value& value);
  bool reply_error(std::string_view command, std::string_view error_class, std::string_view text);
  bool event(std::string_view name, const boost::json::object& data = {});
  /// Answers commands until the client goes: `answer` gives the "return" member, or nothing for
  /// CommandNotFound.
  void serve(const std::function<std::optional<boost::json::value>(
                 std::string_view name, const boost::json::object& arguments)>& answer);
  /// Says nothing until the client goes, or the server is stopped.
  void stay_silent();

 private:
  bool wait(short events);

  int fd_;
  int stop_fd_;
  std::string buffer_;
};

/// The member "execute" of a command line.
std::string command_name(std::string_view line);

class FakeQmpServer {
 public:
  using Script = std::function<void(Peer&)>;

  /// Listens on a Unix socket. Without a script it never accepts anybody.
  FakeQmpServer(std::string path, Script script, int backlog = 8);
  /// Listens on 127.0.0.1; see address().
  explicit FakeQmpServer(Script script);
  ~FakeQmpServer();
  FakeQmpServer(const FakeQmpServer&) = delete;
  FakeQmpServer& operator=(const FakeQmpServer&) = delete;

  /// As qmp::Address::parse takes it.
  const std::string& address() const { return address_; }

 private:
  class Impl;
  std::string address_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vmwhy::test
