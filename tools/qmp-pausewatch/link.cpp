// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/link.hpp"

#include <algorithm>

#include "clock/clock.hpp"
#include "record/qmp_message.hpp"
#include "trace/record.hpp"

namespace vmwhy::qmp_pausewatch {
namespace {

trace::QmpLinkState link_state_of(const qmp::Failure& failure) {
  const auto& code = failure.code;
  if (code == qmp::Errc::connect_timeout) return trace::QmpLinkState::connect_timeout;
  if (code == qmp::Errc::greeting_missing) return trace::QmpLinkState::greeting_missing;
  if (code == qmp::Errc::monitor_held) return trace::QmpLinkState::held;
  if (code == qmp::Errc::negotiation_timeout) return trace::QmpLinkState::negotiation_timeout;
  if (code == qmp::Errc::not_qmp || code == qmp::Errc::malformed || code == qmp::Errc::line_too_long)
    return trace::QmpLinkState::not_qmp;
  if (code == qmp::Errc::disconnected) return trace::QmpLinkState::closed;
  return trace::QmpLinkState::refused;
}

qmp::ClientOptions client_options(qmp::Address address, const Options& options) {
  qmp::ClientOptions out;
  const auto deadline = std::chrono::duration_cast<std::chrono::milliseconds>(options.qmp_deadline);
  out.address = std::move(address);
  out.connect_deadline = out.greeting_deadline = out.command_deadline =
      std::max(deadline, std::chrono::milliseconds(1));
  return out;
}

}  // namespace

Link::Link(Context& context, std::uint32_t vm, std::string vm_name, qmp::Address address, Handlers handlers)
    : context_(context),
      vm_(vm),
      vm_name_(std::move(vm_name)),
      handlers_(std::move(handlers)),
      client_(context.io, client_options(std::move(address), context.options),
              {[this](const qmp::Traffic& traffic) { on_traffic(traffic); },
               [this](const qmp::Event& event) { handlers_.on_event(event); },
               [this](qmp::LinkState state, const qmp::Failure* failure) { on_state(state, failure); },
               [this](std::string_view command, std::uint64_t sent_ns, std::uint64_t arrival_ns) {
                 record_state(trace::QmpLinkState::reply_late, arrival_ns - sent_ns, 0, std::string(command));
                 if (command == "query-status") handlers_.on_round_trip(arrival_ns - sent_ns);
                 overdue_since_ns_ = 0;
                 beat_sent_ns_ = 0;
                 last_answer_ns_ = arrival_ns;
               }}) {}

Link::~Link() {
  *alive_ = false;
}

void Link::start() {
  started_ns_ = clock::now_ns();
  client_.start();
}

void Link::close() {
  client_.close();
}

bool Link::ready() const {
  return client_.state() == qmp::LinkState::ready;
}
bool Link::healthy() const {
  return ready() && overdue_since_ns_ == 0;
}
std::uint32_t Link::peer_pid() const {
  return client_.peer_pid();
}
std::string Link::address() const {
  return client_.address().to_string();
}

void Link::beat() {
  if (!ready() || beat_sent_ns_ != 0) return;
  beat_sent_ns_ = clock::now_ns();
  ask("query-status", {}, [this](const qmp::Result<qmp::Reply>& reply) {
    if (!reply && reply.error().code == qmp::Errc::reply_timeout) return;  // Still waited for.
    beat_sent_ns_ = 0;
    if (reply) handlers_.on_round_trip(reply->arrival_ns - reply->sent_ns);
  });
}

void Link::ask(const std::string& command, boost::json::object arguments, ReplyHandler handler) {
  client_.execute(command, std::move(arguments),
                  [this, alive = std::weak_ptr(alive_), command,
                   handler = std::move(handler)](qmp::Result<qmp::Reply> reply) {
                    if (alive.expired()) return;
                    if (!reply && reply.error().code == qmp::Errc::reply_timeout) {
                      const std::uint64_t now = clock::now_ns();
                      if (overdue_since_ns_ == 0) overdue_since_ns_ = now;
                      record_state(trace::QmpLinkState::reply_overdue,
                                   static_cast<std::uint64_t>(context_.options.qmp_deadline.count()), 0,
                                   command);
                    }
                    if (reply) last_answer_ns_ = reply->arrival_ns;
                    if (reply && command == "query-status" && reply->value.is_object()) {
                      const auto* status = reply->value.get_object().if_contains("status");
                      if (status && status->is_string())
                        handlers_.on_run_state(std::string(status->get_string()));
                    }
                    if (!alive.expired()) handler(std::move(reply));
                  });
}

void Link::withhold(const std::string& command, const std::string& reason) {
  context_.recorder.add(
      trace::make_record(clock::now_ns(), vm_, trace::QmpWithheld{}, trace::join_text({command, reason})));
}

void Link::on_traffic(const qmp::Traffic& traffic) {
  if (traffic.kind == qmp::MessageKind::command && context_.options.verbose)
    context_.complain("→ " + vm_name_ + ": " + std::string(traffic.json));
  context_.recorder.add(record::qmp_message(vm_, traffic));
}

void Link::on_state(qmp::LinkState state, const qmp::Failure* failure) {
  if (failure) {
    overdue_since_ns_ = 0;
    beat_sent_ns_ = 0;
    const bool from_system = failure->code.category() == boost::system::system_category();
    record_state(link_state_of(*failure), clock::now_ns() - started_ns_,
                 from_system ? failure->code.value() : 0, failure->context);
    handlers_.on_failed(*failure);
    return;
  }
  if (state != qmp::LinkState::ready) return;
  ever_ready_ = true;
  last_answer_ns_ = clock::now_ns();
  record_state(trace::QmpLinkState::ready, last_answer_ns_ - started_ns_, 0, "");
  handlers_.on_ready();
}

void Link::record_state(trace::QmpLinkState state, std::uint64_t waited_ns, int error,
                        const std::string& detail) {
  trace::QmpLink link{};
  link.waited_ns = waited_ns;
  link.state = static_cast<std::uint32_t>(state);
  link.error = error;
  context_.recorder.add(
      trace::make_record(clock::now_ns(), vm_, link, trace::join_text({address(), detail})));
}

}  // namespace vmwhy::qmp_pausewatch
