// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-call/format.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <ostream>

#include "core/text.hpp"

namespace vmwhy::qmp_call {
namespace {

namespace json = boost::json;

constexpr const char* kSchema = "vmwhy.qmp-call/1";

void print_lines(std::string_view text, std::ostream& out) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.remove_suffix(1);
  for (std::string_view line : split(text, '\n')) {
    if (line.ends_with('\r')) line.remove_suffix(1);
    out << printable(line, SIZE_MAX) << "\n";
  }
}

// NOLINTNEXTLINE(misc-no-recursion): the parser of QMP messages bounds the depth.
void append(const json::value& value, std::size_t level, std::string& out) {
  const auto line = [&](std::size_t at) { out += "\n" + std::string(2 * at, ' '); };
  if (value.is_object() && !value.get_object().empty()) {
    const char* separator = "{";
    for (const auto& member : value.get_object()) {
      out += separator;
      line(level + 1);
      out += json::serialize(json::value(member.key())) + ": ";
      append(member.value(), level + 1, out);
      separator = ",";
    }
    line(level);
    out += "}";
  } else if (value.is_array() && !value.get_array().empty()) {
    const char* separator = "[";
    for (const json::value& element : value.get_array()) {
      out += separator;
      line(level + 1);
      append(element, level + 1, out);
      separator = ",";
    }
    line(level);
    out += "]";
  } else {
    out += json::serialize(value);
  }
}

void print_object(const json::object& object, std::ostream& out) {
  out << json::serialize(object) << std::endl;
}

}  // namespace

std::string indent(const json::value& value) {
  std::string out;
  append(value, 0, out);
  return out;
}

void print_reply(std::string_view command, const json::value& value, bool json, std::ostream& out) {
  if (json)
    print_object({{"schema", kSchema}, {"command", command}, {"return", value}}, out);
  else if (value.is_string())
    print_lines(value.get_string(), out);
  else if (!value.is_object() || !value.get_object().empty())
    print_lines(indent(value), out);
  out.flush();
}

void print_error(std::string_view command, const qmp::Failure& failure, std::ostream& out) {
  const bool peer = failure.code == qmp::Errc::error_reply;
  json::object error{{"class", peer ? failure.peer_class : failure.code.message()},
                     {"desc", peer ? failure.peer_text : failure.context}};
  print_object({{"schema", kSchema}, {"command", command}, {"error", std::move(error)}}, out);
}

void print_event(const qmp::Event& event, bool json, bool color, std::ostream& out) {
  const std::string time = event.wall_us < 0 ? "" : iso_time(event.wall_us * 1000);
  if (json) {
    json::object object{{"schema", kSchema}, {"event", event.name}, {"data", event.data}};
    object["wall_us"] = event.wall_us;
    object["wall_time"] = time.empty() ? json::value(nullptr) : json::value(time);
    object["arrival_ns"] = event.arrival_ns;
    print_object(object, out);
    return;
  }
  out << (time.empty() ? "(no time)" : time) << "  " << (color ? "\x1b[1m" : "") << printable(event.name)
      << (color ? "\x1b[0m" : "");
  if (!event.data.empty()) out << "  " << printable(json::serialize(event.data), SIZE_MAX);
  out << std::endl;
}

}  // namespace vmwhy::qmp_call
