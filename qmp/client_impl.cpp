// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/client_impl.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <ctime>

#include "qmp/proto/allow_list.hpp"
#include "qmp/unix_sockets.hpp"

namespace vmwhy::qmp {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr std::chrono::milliseconds kFirstBackoff{100};
constexpr std::chrono::milliseconds kLongestBackoff{5000};
// One read buffer for all monitors of a thread: a session keeps only lines that are not complete.
constexpr std::size_t kReadBytes = 64u << 10;
// A monitor that floods must leave the others a turn.
constexpr int kReadsPerTurn = 16;

std::uint64_t clock_ns(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(now.tv_nsec);
}

std::uint64_t boottime_ns() {
  return clock_ns(CLOCK_BOOTTIME);
}
// Deadlines must not pass while the host sleeps, so they are not measured by BOOTTIME.
std::uint64_t deadline_clock_ns() {
  return clock_ns(CLOCK_MONOTONIC);
}

std::uint64_t deadline_in(std::chrono::milliseconds time) {
  return deadline_clock_ns() +
         static_cast<std::uint64_t>(std::max<std::int64_t>(time.count(), 0)) * 1'000'000u;
}

std::uint32_t peer_pid_of(int fd) {
  ucred credentials{};
  socklen_t length = sizeof credentials;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) return 0;
  return credentials.pid > 0 ? static_cast<std::uint32_t>(credentials.pid) : 0;
}

std::string seconds(std::chrono::milliseconds time) {
  const auto ms = time.count();
  return ms % 1000 == 0 ? std::to_string(ms / 1000) + " s" : std::to_string(ms) + " ms";
}

Failure make_failure(Errc code, std::string context) {
  return {make_error_code(code), std::move(context), {}, {}};
}

}  // namespace

Client::Impl::Impl(asio::io_context& io, ClientOptions options, Handlers handlers)
    : io_(io),
      options_(std::move(options)),
      handlers_(std::move(handlers)),
      socket_(io),
      phase_timer_(io),
      deadline_timer_(io) {}

void Client::Impl::set_state(LinkState state, const Failure* failure) {
  state_ = state;
  if (handlers_.on_state && !destroyed_) handlers_.on_state(state, failure);
}

// ---- connecting ----

void Client::Impl::connect() {
  drop_connection();
  const Epoch epoch = epoch_;
  set_state(LinkState::connecting);
  if (!live(epoch)) return;
  connector_ = std::make_shared<Connector>(io_, options_.address, options_.connect_deadline);
  connector_->start([self = shared_from_this(), epoch](Result<Connector::Socket*> result) {
    if (self->live(epoch)) self->connected(std::move(result));
  });
}

void Client::Impl::connected(Result<Connector::Socket*> result) {
  const auto connector = std::move(connector_);
  if (!result) {
    go_down(result.error());
    return;
  }
  socket_ = std::move(**result);
  peer_pid_ = options_.address.kind == Address::Kind::unix_socket ? peer_pid_of(socket_.native_handle()) : 0;
  session_ =
      std::make_unique<proto::Session>(proto::SessionOptions{options_.max_line_bytes, options_.want_oob});
  const Epoch epoch = epoch_;
  set_state(LinkState::waiting_for_greeting);
  if (!live(epoch)) return;
  arm_phase(options_.greeting_deadline);
  wait_readable();
}

void Client::Impl::drop_connection() {
  ++epoch_;
  if (connector_) connector_->cancel();
  connector_.reset();
  phase_timer_.cancel();
  deadline_timer_.cancel();
  armed_ns_.reset();
  error_code ignored;
  socket_.close(ignored);
  out_.clear();
  writing_ = false;
}

void Client::Impl::go_down(const Failure& failure) {
  drop_connection();
  const Epoch epoch = epoch_;
  state_ = LinkState::down;
  fail_outstanding(failure);
  if (!live(epoch)) return;
  set_state(LinkState::down, &failure);
  if (live(epoch) && options_.reconnect) retry_later();
}

void Client::Impl::fail_outstanding(const Failure& failure) {
  auto replies = std::exchange(replies_, {});
  auto waiting = std::exchange(waiting_, {});
  std::map<std::uint64_t, std::string> commands;
  if (session_)
    for (proto::Pending& pending : session_->router().clear())
      commands[pending.id] = std::move(pending.command);
  const auto disconnected = [&](const std::string& command) {
    return make_failure(Errc::disconnected, command + ": connection lost: " + failure.context);
  };
  for (auto& [id, handler] : replies)
    if (handler && !destroyed_) handler(disconnected(commands[id]));
  for (Request& request : waiting)
    if (request.handler && !destroyed_) request.handler(disconnected(request.command));
}

void Client::Impl::retry_later() {
  backoff_ = backoff_.count() == 0 ? kFirstBackoff : std::min(backoff_ * 2, kLongestBackoff);
  phase_timer_.expires_after(backoff_);
  phase_timer_.async_wait([self = shared_from_this(), epoch = epoch_](error_code stopped) {
    if (!stopped && self->live(epoch)) self->connect();
  });
}

void Client::Impl::close_by_user() {
  const bool was_open = socket_.is_open() || connector_ || state_ != LinkState::down;
  drop_connection();
  const Epoch epoch = epoch_;
  state_ = LinkState::down;
  const Failure failure = make_failure(Errc::disconnected, options_.address.to_string() + " was closed here");
  fail_outstanding(failure);
  if (was_open && live(epoch)) set_state(LinkState::down, &failure);
}

void Client::Impl::destroy() {
  destroyed_ = true;
  drop_connection();
}

// ---- reading ----

void Client::Impl::wait_readable() {
  socket_.async_wait(asio::socket_base::wait_read,
                     [self = shared_from_this(), epoch = epoch_](error_code error) {
                       if (!error && self->live(epoch)) self->readable();
                     });
}

void Client::Impl::readable() {
  static thread_local const auto buffer = std::make_unique<char[]>(kReadBytes);
  const Epoch epoch = epoch_;
  for (int turn = 0; turn < kReadsPerTurn; ++turn) {
    error_code error;
    const std::size_t got = socket_.read_some(asio::buffer(buffer.get(), kReadBytes), error);
    if (error == asio::error::would_block || error == asio::error::interrupted) break;
    if (error) {
      go_down(end_of_stream(error));
      return;
    }
    consume({buffer.get(), got});
    if (!live(epoch)) return;
    if (got < kReadBytes) break;
  }
  wait_readable();
}

Failure Client::Impl::end_of_stream(const error_code& error) const {
  std::string context = options_.address.to_string();
  if (error == asio::error::eof)
    context += ": the peer closed the connection";
  else
    context += ": " + error.message();
  if (session_ && session_->phase() == proto::Phase::greeting) context += " before its greeting";
  if (session_ && session_->pending_bytes() > 0) context += " in the middle of a message";
  return make_failure(Errc::disconnected, std::move(context));
}

void Client::Impl::consume(std::string_view bytes) {
  const Epoch epoch = epoch_;
  const std::uint64_t now = boottime_ns();
  while (live(epoch)) {
    std::optional<proto::Incoming> incoming =
        session_->next(bytes, now, deadline_in(options_.greeting_deadline));
    if (!incoming) break;
    handle(*incoming, now);
  }
}

void Client::Impl::report_traffic(const proto::Incoming& incoming, std::uint64_t now_ns) {
  if (!handlers_.on_traffic) return;
  Traffic traffic{MessageKind::unparsable, {}, incoming.line, now_ns, 0, -1};
  switch (incoming.message.type) {
    case proto::MessageType::greeting:
      traffic.kind = MessageKind::greeting;
      break;
    case proto::MessageType::event:
      traffic.kind = MessageKind::event;
      traffic.wall_us = incoming.message.wall_us;
      break;
    case proto::MessageType::return_:
      traffic.kind = MessageKind::return_;
      break;
    case proto::MessageType::error:
      traffic.kind = MessageKind::error;
      break;
    case proto::MessageType::unknown:
      break;
  }
  traffic.command = incoming.command.command;
  traffic.sent_ns = incoming.command.sent_ns;
  handlers_.on_traffic(traffic);
}

void Client::Impl::handle(proto::Incoming& incoming, std::uint64_t now_ns) {
  using Kind = proto::Incoming::Kind;
  const Epoch epoch = epoch_;
  report_traffic(incoming, now_ns);
  if (!live(epoch)) return;
  switch (incoming.kind) {
    case Kind::greeting:
      version_ = session_->version();
      set_state(LinkState::negotiating);
      if (!live(epoch)) return;
      arm_phase(options_.greeting_deadline);
      send_line("qmp_capabilities", session_->take_output(), now_ns);
      break;
    case Kind::negotiated:
      phase_timer_.cancel();
      backoff_ = std::chrono::milliseconds(0);
      set_state(LinkState::ready);
      break;
    case Kind::event:
      if (handlers_.on_event)
        handlers_.on_event({std::move(incoming.message.event), std::move(incoming.message.data),
                            incoming.message.wall_us, now_ns});
      break;
    case Kind::reply:
      handle_reply(incoming, now_ns, epoch);
      break;
    case Kind::not_qmp:
      incoming.failure.context = options_.address.to_string() + ": " + incoming.failure.context;
      go_down(incoming.failure);
      break;
    case Kind::unexpected:
    case Kind::unparsable:
      break;  // the recorder has it from on_traffic
  }
}

void Client::Impl::handle_reply(proto::Incoming& incoming, std::uint64_t now_ns, Epoch epoch) {
  const proto::Pending& command = incoming.command;
  if (command.overdue) {
    if (handlers_.on_late_reply) handlers_.on_late_reply(command.command, command.sent_ns, now_ns);
  } else if (const auto found = replies_.find(command.id); found != replies_.end()) {
    const ReplyHandler handler = std::move(found->second);
    replies_.erase(found);
    if (!handler) {
    } else if (incoming.message.type == proto::MessageType::return_) {
      handler(Reply{std::move(incoming.message.value), command.sent_ns, now_ns});
    } else {
      handler(Failure{make_error_code(Errc::error_reply), command.command,
                      std::move(incoming.message.error_class), std::move(incoming.message.error_text)});
    }
  }
  if (live(epoch)) pump();
}

// ---- deadlines ----

void Client::Impl::arm_phase(std::chrono::milliseconds deadline) {
  phase_timer_.expires_after(deadline);
  phase_timer_.async_wait([self = shared_from_this(), epoch = epoch_](error_code stopped) {
    if (!stopped && self->live(epoch)) self->phase_expired();
  });
}

// The connection stays open: a monitor that another client holds greets when that client goes.
void Client::Impl::phase_expired() {
  const std::string name = options_.address.to_string();
  if (state_ == LinkState::waiting_for_greeting) {
    bool held = false;
    std::string context = name + ": connected, but no greeting within " + seconds(options_.greeting_deadline);
    if (session_->pending_bytes() > 0) {
      context += " (only " + std::to_string(session_->pending_bytes()) + " bytes without a line end)";
    } else if (options_.address.kind == Address::Kind::unix_socket) {
      const Silence why = explain_silence(socket_.native_handle(), peer_pid_, options_.address.path);
      if (!why.text.empty()) context += "; " + why.text;
      held = why.held;
    }
    const Failure failure =
        make_failure(held ? Errc::monitor_held : Errc::greeting_missing, std::move(context));
    set_state(LinkState::down, &failure);
  } else if (state_ == LinkState::negotiating) {
    const Failure failure = make_failure(
        Errc::negotiation_timeout, name + ": greeted, but did not answer qmp_capabilities within " +
                                       seconds(options_.greeting_deadline) + "; QEMU's main loop is stuck");
    set_state(LinkState::down, &failure);
  }
}

void Client::Impl::arm_deadlines() {
  const auto next = session_ ? session_->router().next_deadline() : std::nullopt;
  if (!next || (armed_ns_ && *armed_ns_ <= *next)) return;
  armed_ns_ = *next;
  const std::uint64_t now = deadline_clock_ns();
  deadline_timer_.expires_after(std::chrono::nanoseconds(*next > now ? *next - now : 0));
  deadline_timer_.async_wait([self = shared_from_this(), epoch = epoch_](error_code stopped) {
    if (!stopped && self->live(epoch)) self->deadlines_expired();
  });
}

void Client::Impl::deadlines_expired() {
  armed_ns_.reset();
  const Epoch epoch = epoch_;
  for (const proto::Pending& pending : session_->router().expire(deadline_clock_ns())) {
    const auto found = replies_.find(pending.id);
    if (found == replies_.end()) continue;
    const ReplyHandler handler = std::move(found->second);
    replies_.erase(found);
    if (handler)
      handler(make_failure(Errc::reply_timeout, options_.address.to_string() + ": " + pending.command));
    if (!live(epoch)) return;
  }
  arm_deadlines();
}

// ---- sending ----

void Client::Impl::submit(Request request) {
  const bool allowed = !options_.read_only || proto::on_allow_list(request.command, request.arguments);
  if (allowed && state_ == LinkState::ready) {
    waiting_.push_back(std::move(request));
    post([](Impl& impl) { impl.pump(); });
    return;
  }
  Failure failure =
      allowed ? make_failure(Errc::disconnected, options_.address.to_string() + ": " + request.command)
              : make_failure(Errc::not_allowed, request.command);
  post([handler = std::move(request.handler), failure = std::move(failure)](Impl&) {
    if (handler) handler(failure);
  });
}

void Client::Impl::pump() {
  const Epoch epoch = epoch_;
  while (live(epoch) && session_ && !waiting_.empty() && session_->may_send()) {
    Request request = std::move(waiting_.front());
    waiting_.pop_front();
    const std::uint64_t now = boottime_ns();
    std::uint64_t id = 0;
    const std::string line =
        session_->send(request.command, request.arguments, now, deadline_in(request.deadline), id);
    replies_.emplace(id, std::move(request.handler));
    send_line(request.command, line, now);
  }
  if (live(epoch)) arm_deadlines();
}

void Client::Impl::send_line(std::string_view command, const std::string& line, std::uint64_t now_ns) {
  const Epoch epoch = epoch_;
  if (handlers_.on_traffic)
    handlers_.on_traffic(
        {MessageKind::command, command, std::string_view(line).substr(0, line.size() - 1), now_ns, 0, -1});
  if (!live(epoch)) return;
  out_ += line;
  if (!writing_) flush();
}

void Client::Impl::flush() {
  writing_ = false;
  error_code error;
  const std::size_t sent = socket_.write_some(asio::buffer(out_), error);
  out_.erase(0, error ? 0 : sent);
  // A lost connection is told by the read side, after what the peer said last.
  if (error && error != asio::error::would_block && error != asio::error::interrupted) return;
  if (out_.empty()) return;
  writing_ = true;
  socket_.async_wait(asio::socket_base::wait_write,
                     [self = shared_from_this(), epoch = epoch_](error_code failed) {
                       if (!failed && self->live(epoch)) self->flush();
                     });
}

}  // namespace vmwhy::qmp
