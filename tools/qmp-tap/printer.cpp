// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-tap/printer.hpp"

#include <fmt/format.h>
#include <fmt/ostream.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <ostream>

#include "core/text.hpp"

namespace vmwhy::qmp_tap {
namespace {

namespace json = boost::json;
using qmp::proto::Direction;
using qmp::proto::Overheard;
using Kind = Overheard::Kind;

constexpr std::size_t kWidth = 100;
constexpr std::size_t kVerboseLimit = 64u << 20;

std::string_view kind_name(Kind kind) {
  switch (kind) {
    case Kind::greeting:
      return "greeting";
    case Kind::command:
      return "command";
    case Kind::reply:
      return "reply";
    case Kind::error:
      return "error";
    case Kind::event:
      return "event";
    case Kind::gap:
      return "gap";
    case Kind::other:
      break;
  }
  return "other";
}

std::string_view change_name(tap::Change change) {
  switch (change) {
    case tap::Change::opened:
      return "connected";
    case tap::Change::closed:
      return "closed";
    case tap::Change::ended:
      return "ended";
    case tap::Change::blocked:
      return "blocked";
    case tap::Change::flowing:
      break;
  }
  return "flowing";
}

std::uint64_t latency(const Overheard& message) {
  return message.sent_ns == 0 ? 0 : message.time_ns - std::min(message.time_ns, message.sent_ns);
}

std::string quoted(std::string_view text) {
  return json::serialize(json::value(json::string_view(text.data(), text.size())));
}

/// On one line, whatever its author's taste.
std::string one_line(const Overheard& message, const std::string& text) {
  if (message.kind == Kind::other) return quoted(text);
  const bool plain = text.find('\n') == std::string::npos &&
                     (message.kind != Kind::command || text.find('\'') == std::string::npos);
  if (plain) return text;
  json::error_code error;
  const json::value value = json::parse(text, error);
  return error ? quoted(text) : json::serialize(value);
}

/// The part of a message that its head does not tell already.
std::string body_of(const Overheard& message, const std::string& text) {
  const char* member = message.kind == Kind::command ? "arguments"
                       : message.kind == Kind::event ? "data"
                                                     : "return";
  json::error_code error;
  const json::value value = json::parse(text, error);
  if (error || !value.is_object()) return text;
  const json::value* body = value.get_object().if_contains(member);
  if (!body || (body->is_object() && body->get_object().empty())) return {};
  return json::serialize(*body);
}

}  // namespace

bool Printer::wanted(const Overheard& message) const {
  if (message.kind == Kind::gap) return true;
  if (options_.slow.count() > 0 && message.kind != Kind::error && message.kind != Kind::reply) return false;
  if (options_.slow.count() > 0 && latency(message) < static_cast<std::uint64_t>(options_.slow.count()))
    return false;
  switch (options_.only) {
    case Only::all:
      return true;
    case Only::commands:
      return message.kind == Kind::command || message.kind == Kind::reply || message.kind == Kind::error;
    case Only::events:
      return message.kind == Kind::event;
    case Only::errors:
      break;
  }
  return message.kind == Kind::error;
}

void Printer::line(std::uint64_t time_ns, const std::string& who, const std::string& head,
                   std::string_view body, const char* color) {
  const std::string clock = iso_time(static_cast<std::int64_t>(time_ns) + offset_ns_).substr(11, 15);
  std::string text = clock + " " + who + " " + head;
  const std::size_t limit = options_.verbose ? kVerboseLimit : kWidth - std::min(kWidth - 8, text.size() + 1);
  if (!body.empty()) text += " " + printable(body, limit);
  if (color_ && *color != '\0')
    fmt::print(out_, "\033[{}m{}\033[0m\n", color, text);
  else
    fmt::print(out_, "{}\n", text);
}

std::string Printer::head_json(const tap::Wire& wire, const std::string& vm, std::uint64_t time_ns,
                               std::string_view kind, Direction direction) const {
  return fmt::format(
      R"({{"schema": "vmwhy.qmp/1", "time_ns": {}, "wall_time": "{}", "vm": {{"pid": {}, "name": {}}}, "monitor": {}, )"
      R"("link": {}, "direction": "{}", "kind": "{}", "peer": {{"pid": {}, "comm": {}, "user": {}}})",
      time_ns, iso_time(static_cast<std::int64_t>(time_ns) + offset_ns_), wire.pid, quoted(vm),
      quoted(wire.monitor), wire.link, direction == Direction::in ? "in" : "out", kind, wire.peer.pid,
      quoted(wire.peer.comm), quoted(wire.peer.user));
}

void Printer::message(const tap::Wire& wire, const std::string& vm, const Overheard& message,
                      const std::string& text) {
  if (!wanted(message)) return;
  const std::uint64_t took = latency(message);
  if (options_.json) {
    std::string line = head_json(wire, vm, message.time_ns, kind_name(message.kind), message.direction);
    if (!message.command.empty()) line += R"(, "command": )" + quoted(message.command);
    if (message.sent_ns != 0) line += fmt::format(R"(, "latency_ns": {})", took);
    if (message.kind == Kind::gap) line += fmt::format(R"(, "lost_bytes": {})", message.lost_bytes);
    if (message.kind != Kind::gap) line += R"(, "message": )" + one_line(message, text);
    out_ << json_safe(line + "}") << "\n";
    return;
  }
  const std::string who = printable(vm, 32) + " " + printable(wire.peer.to_string(), 40);
  const std::string name = printable(message.command.empty() ? "a command not heard" : message.command, 64);
  const std::string time = message.sent_ns == 0 ? "" : " " + human_duration(static_cast<std::int64_t>(took));
  switch (message.kind) {
    case Kind::greeting:
      return line(message.time_ns, who, "← greeting", options_.verbose ? text : "", "");
    case Kind::command:
      return line(message.time_ns, who, "→ " + name, body_of(message, text), "");
    case Kind::reply:
      return line(message.time_ns, who, "← " + name + time, body_of(message, text), "");
    case Kind::error:
      return line(message.time_ns, who,
                  "← " + name + time + " failed:", message.error_class + ": " + message.error_text, "31");
    case Kind::event:
      return line(message.time_ns, who, "← event " + printable(message.event, 64), body_of(message, text),
                  "33");
    case Kind::gap:
      return line(message.time_ns, who,
                  fmt::format("{} {} bytes were not heard whole",
                              message.direction == Direction::in ? "→" : "←", message.lost_bytes),
                  "", "31");
    case Kind::other:
      return line(message.time_ns, who, message.direction == Direction::in ? "→ no QMP:" : "← no QMP:", text,
                  "");
  }
}

void Printer::change(const tap::Wire& wire, const std::string& vm, tap::Change change, std::uint64_t time_ns,
                     std::uint64_t waited_ns) {
  if (options_.json) {
    std::string line = head_json(wire, vm, time_ns, "connection", Direction::in);
    const tap::Peer& peer = wire.peer;
    line += fmt::format(R"(, "state": "{}", "waited_ns": {}, "client": {{"pid": {}, "uid": {}, "comm": {}, )"
                        R"("command_line": {}, "user": {}, "container": {}, "parents": {}}}}})",
                        change_name(change), waited_ns, peer.pid, peer.uid, quoted(peer.comm),
                        quoted(peer.command_line), quoted(peer.user), quoted(peer.container),
                        quoted(peer.ancestors));
    out_ << json_safe(line) << "\n";
    return;
  }
  const bool trouble = change == tap::Change::blocked || change == tap::Change::flowing;
  if (!options_.verbose && !trouble) return;
  const std::string who = printable(vm, 32) + " " + printable(wire.peer.to_string(), 40);
  if (change == tap::Change::blocked)
    return line(time_ns, who, "does not read: QEMU's messages wait", "", "31");
  if (change == tap::Change::flowing)
    return line(time_ns, who, "reads again, after " + human_duration(static_cast<std::int64_t>(waited_ns)),
                "", "31");
  std::string more = wire.peer.command_line;
  if (!wire.peer.user.empty()) more += ", user " + wire.peer.user;
  if (!wire.peer.container.empty()) more += ", container " + wire.peer.container;
  if (!wire.peer.ancestors.empty()) more += ", started by " + wire.peer.ancestors;
  line(time_ns, who,
       std::string(change_name(change)) + (wire.monitor.empty() ? "" : " " + printable(wire.monitor)),
       change == tap::Change::opened ? more : "", "");
}

void Printer::waiting(const tap::Pending& pending, const std::string& vm, std::uint64_t now_ns) {
  const std::uint64_t waited = now_ns - std::min(now_ns, pending.received_ns);
  if (options_.json) {
    std::string line = head_json(*pending.wire, vm, now_ns, "waiting", Direction::out);
    line += fmt::format(R"(, "command": {}, "latency_ns": {}}})", quoted(pending.command), waited);
    out_ << json_safe(line) << "\n";
    return;
  }
  const std::string who = printable(vm, 32) + " " + printable(pending.wire->peer.to_string(), 40);
  line(now_ns, who,
       "… " + printable(pending.command, 64) + " has no reply for " +
           human_duration(static_cast<std::int64_t>(waited)),
       "", "31");
}

}  // namespace vmwhy::qmp_tap
