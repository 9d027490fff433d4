// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The inside of Client: one object per monitor, kept alive by its outstanding asynchronous operations.
// Any handler may close or destroy the client: after each call, `live()` tells whether to go on.

#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qmp/client.hpp"
#include "qmp/connector.hpp"
#include "qmp/proto/session.hpp"

namespace vmwhy::qmp {

class Client::Impl : public std::enable_shared_from_this<Client::Impl> {
 public:
  struct Request {
    std::string command;
    boost::json::object arguments;
    std::chrono::milliseconds deadline;
    ReplyHandler handler;
  };

  Impl(boost::asio::io_context& io, ClientOptions options, Handlers handlers);

  template <class Work>
  void post(Work work) {
    boost::asio::post(io_, [self = shared_from_this(), work = std::move(work)]() mutable {
      if (!self->destroyed_) work(*self);
    });
  }

  void connect();
  void close_by_user();
  void destroy();
  void submit(Request request);

  const ClientOptions& options() const { return options_; }
  LinkState state() const { return state_; }
  const boost::json::object& version() const { return version_; }
  std::uint32_t peer_pid() const { return peer_pid_; }
  std::size_t in_flight() const { return session_ ? session_->router().in_flight() : 0; }

 private:
  using Epoch = std::uint64_t;

  bool live(Epoch epoch) const { return !destroyed_ && epoch_ == epoch; }
  void set_state(LinkState state, const Failure* failure = nullptr);
  void connected(Result<Connector::Socket*> result);
  void go_down(const Failure& failure);
  void drop_connection();
  void fail_outstanding(const Failure& failure);
  void retry_later();

  void wait_readable();
  void readable();
  void consume(std::string_view bytes);
  void handle(proto::Incoming& incoming, std::uint64_t now_ns);
  void handle_reply(proto::Incoming& incoming, std::uint64_t now_ns, Epoch epoch);
  void report_traffic(const proto::Incoming& incoming, std::uint64_t now_ns);
  Failure end_of_stream(const boost::system::error_code& error) const;

  void arm_phase(std::chrono::milliseconds deadline);
  void phase_expired();
  void arm_deadlines();
  void deadlines_expired();

  void pump();
  void send_line(std::string_view command, const std::string& line, std::uint64_t now_ns);
  void flush();

  boost::asio::io_context& io_;
  ClientOptions options_;
  Handlers handlers_;
  boost::asio::generic::stream_protocol::socket socket_;
  boost::asio::steady_timer phase_timer_;     ///< Greeting, negotiation, reconnect.
  boost::asio::steady_timer deadline_timer_;  ///< The earliest deadline of a command.
  std::optional<std::uint64_t> armed_ns_;     ///< When deadline_timer_ fires.
  std::shared_ptr<Connector> connector_;
  std::unique_ptr<proto::Session> session_;
  std::deque<Request> waiting_;
  std::map<std::uint64_t, ReplyHandler> replies_;
  std::string out_;
  bool writing_ = false;
  LinkState state_ = LinkState::down;
  boost::json::object version_;
  std::uint32_t peer_pid_ = 0;
  std::chrono::milliseconds backoff_{0};
  Epoch epoch_ = 0;  ///< Changes with each connection; what belongs to an older one is ignored.
  bool destroyed_ = false;
};

}  // namespace vmwhy::qmp
