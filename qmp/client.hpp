// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A QMP monitor over a Unix or TCP socket: the Boost.Asio shell around proto::Session. Several clients live
// in one io_context; everything runs on its thread, and no handler is called from within a member function.

#include <boost/asio/io_context.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "qmp/failure.hpp"

namespace vmwhy::qmp {

/// "unix:/run/x.sock", "/run/x.sock", "tcp:host:port", "host:port", "[::1]:4444".
struct Address {
  enum class Kind { unix_socket, tcp } kind = Kind::unix_socket;
  std::string path;  ///< unix_socket; a leading '@' names an abstract socket.
  std::string host;
  std::string port;

  static Result<Address> parse(std::string_view text);
  std::string to_string() const;
};

struct ClientOptions {
  Address address;
  std::chrono::milliseconds connect_deadline{2000};
  std::chrono::milliseconds greeting_deadline{2000};  ///< Also for the reply to qmp_capabilities.
  std::chrono::milliseconds command_deadline{2000};   ///< Default of execute().
  std::size_t max_line_bytes = 64u << 20;             ///< A longer line is skipped and reported.
  bool read_only = true;                              ///< Refuse commands that are not on the allow-list.
  bool want_oob = false;   ///< Enable out-of-band execution where the greeting offers it.
  bool reconnect = false;  ///< After a loss: try again, after 100 ms at first, then up to 5 s.
};

enum class LinkState {
  connecting,
  waiting_for_greeting,
  negotiating,
  ready,
  down,  ///< Failed or closed; see the failure. With `reconnect` it goes on to connecting.
};

/// One event, as QEMU sent it.
struct Event {
  std::string name;
  boost::json::object data;
  std::int64_t wall_us = -1;     ///< QEMU's stamp, µs since the epoch: when it was generated. -1: none.
  std::uint64_t arrival_ns = 0;  ///< CLOCK_BOOTTIME when its line was complete here.
};

/// What a command came to.
struct Reply {
  boost::json::value value;   ///< The "return" member.
  std::uint64_t sent_ns = 0;  ///< CLOCK_BOOTTIME.
  std::uint64_t arrival_ns = 0;
};

enum class MessageKind { greeting, event, command, return_, error, unparsable };

/// Every message in both directions, before anybody interprets it: what a recorder stores.
struct Traffic {
  MessageKind kind;
  std::string_view command;  ///< The command sent, or replied to; empty otherwise.
  std::string_view json;     ///< The line without its end. Valid within the call.
  std::uint64_t time_ns;     ///< CLOCK_BOOTTIME of sending or arrival.
  std::uint64_t sent_ns;     ///< Replies: when the command had been sent.
  std::int64_t wall_us;      ///< Events: QEMU's stamp, or -1.
};

struct Handlers {
  std::function<void(const Traffic&)> on_traffic;
  std::function<void(const Event&)> on_event;
  /// `failure` is set for `down`. greeting_missing, monitor_held and negotiation_timeout leave the connection
  /// open: if the greeting comes after all, the state goes on to negotiating.
  std::function<void(LinkState, const Failure*)> on_state;
  /// A reply that came after its deadline: its handler had already been told reply_timeout.
  std::function<void(std::string_view command, std::uint64_t sent_ns, std::uint64_t arrival_ns)>
      on_late_reply;
};

class Client {
 public:
  using ReplyHandler = std::function<void(Result<Reply>)>;

  Client(boost::asio::io_context& io, ClientOptions options, Handlers handlers);
  /// Closes. No handler is called afterwards.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  /// Begins to connect, and negotiates as soon as the greeting is there.
  void start();
  /// Closes the connection. Outstanding commands fail with `disconnected`.
  void close();

  /// Sends a command; before the link is ready it fails at once with `disconnected`.
  /// Its failure is error_reply, reply_timeout, disconnected or not_allowed. At most 8 commands are in
  /// flight, the rest waits here; a command's deadline counts from when it was sent.
  void execute(std::string command, boost::json::object arguments, ReplyHandler handler);
  void execute(std::string command, boost::json::object arguments, std::chrono::milliseconds deadline,
               ReplyHandler handler);

  LinkState state() const;
  const Address& address() const;
  /// The greeting's "version" member; empty before it came.
  const boost::json::object& version() const;
  /// Process at the other end of a Unix socket (SO_PEERCRED): who called listen(2); 0: not known.
  std::uint32_t peer_pid() const;
  /// Commands sent and not answered.
  std::size_t in_flight() const;

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

/// Whether a watcher may send `command`: the read-only allow-list. query-block is on it, although it may
/// block a QEMU whose storage hangs: asking it at the right moment is the caller's duty.
bool is_read_only(std::string_view command);

}  // namespace vmwhy::qmp
