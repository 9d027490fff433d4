// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/proto/session.hpp"

#include <utility>

namespace vmwhy::qmp::proto {

Session::Session(const SessionOptions& options) : options_(options), splitter_(options.max_line_bytes) {}

std::optional<Incoming> Session::next(std::string_view& bytes, std::uint64_t now_ns,
                                      std::uint64_t deadline_ns) {
  if (phase_ == Phase::failed) {
    bytes = {};
    return std::nullopt;
  }
  const std::optional<Line> line = splitter_.next(bytes);
  if (!line) return std::nullopt;
  Incoming incoming;
  incoming.line = line->text;
  if (line->overlong) {
    handle_bad(incoming, {make_error_code(Errc::line_too_long),
                          "a line of " + std::to_string(line->length) + " bytes",
                          {},
                          {}});
    return incoming;
  }
  Result<Message> message = parse_message(line->text);
  if (!message) {
    handle_bad(incoming, message.error());
    return incoming;
  }
  incoming.message = std::move(*message);
  switch (incoming.message.type) {
    case MessageType::greeting:
      handle_greeting(incoming, now_ns, deadline_ns);
      break;
    case MessageType::return_:
    case MessageType::error:
      handle_reply(incoming);
      break;
    case MessageType::event:
      incoming.kind = Incoming::Kind::event;
      break;
    case MessageType::unknown:
      incoming.kind = Incoming::Kind::unexpected;
      break;
  }
  if (phase_ == Phase::greeting)
    handle_bad(incoming, {make_error_code(Errc::not_qmp), "a message before the greeting", {}, {}});
  return incoming;
}

void Session::handle_bad(Incoming& incoming, Failure failure) {
  incoming.kind = Incoming::Kind::unparsable;
  if (phase_ == Phase::greeting) {
    // Whatever it is (a human monitor, a guest agent, an SSH server), it does not speak QMP.
    incoming.kind = Incoming::Kind::not_qmp;
    failure.code = make_error_code(Errc::not_qmp);
    failure.context = "the first line is no greeting: " + failure.context;
    phase_ = Phase::failed;
  }
  incoming.failure = std::move(failure);
}

void Session::handle_greeting(Incoming& incoming, std::uint64_t now_ns, std::uint64_t deadline_ns) {
  if (phase_ != Phase::greeting) {
    incoming.kind = Incoming::Kind::unexpected;
    return;
  }
  incoming.kind = Incoming::Kind::greeting;
  version_ = incoming.message.version;
  oob_ = options_.want_oob && incoming.message.offers("oob");
  boost::json::object arguments;
  if (oob_) arguments["enable"] = boost::json::array{"oob"};
  const std::uint64_t id = router_.add("qmp_capabilities", now_ns, deadline_ns);
  output_ += format_command("qmp_capabilities", arguments, id);
  phase_ = Phase::negotiating;
}

void Session::handle_reply(Incoming& incoming) {
  if (phase_ == Phase::greeting) return;
  std::optional<Pending> command = router_.match(incoming.message.id);
  if (!command) {
    incoming.kind = Incoming::Kind::unexpected;
    return;
  }
  incoming.command = std::move(*command);
  incoming.kind = Incoming::Kind::reply;
  if (phase_ != Phase::negotiating) return;
  if (incoming.message.type == MessageType::return_) {
    incoming.kind = Incoming::Kind::negotiated;
    phase_ = Phase::ready;
    return;
  }
  incoming.kind = Incoming::Kind::not_qmp;
  incoming.failure = {make_error_code(Errc::not_qmp), "qmp_capabilities was refused",
                      incoming.message.error_class, incoming.message.error_text};
  phase_ = Phase::failed;
}

std::string Session::send(std::string_view command, const boost::json::object& arguments,
                          std::uint64_t now_ns, std::uint64_t deadline_ns, std::uint64_t& id,
                          bool out_of_band) {
  id = router_.add(std::string(command), now_ns, deadline_ns);
  return format_command(command, arguments, id, out_of_band && oob_);
}

std::string Session::take_output() {
  return std::exchange(output_, {});
}

}  // namespace vmwhy::qmp::proto
