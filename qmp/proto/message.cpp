// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/proto/message.hpp"

#include <algorithm>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/parser.hpp>
#include <boost/json/serialize.hpp>
#include <exception>

#include "qmp/proto/command_message.hpp"

namespace vmwhy::qmp::proto {
namespace {

namespace json = boost::json;

Failure malformed(std::string context) {
  return {make_error_code(Errc::malformed), std::move(context), {}, {}};
}

// Each value needs a comma, a colon or a bracket of its own, so counting them bounds what a parse allocates.
bool too_many_values(std::string_view line) {
  if (line.size() <= kMaxValues) return false;
  const auto marks =
      std::count_if(line.begin(), line.end(), [](char c) { return c == ',' || c == '[' || c == '{'; });
  return static_cast<std::size_t>(marks) > kMaxValues;
}

std::string text_of(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  const json::string* text = value ? value->if_string() : nullptr;
  return text ? std::string(*text) : std::string();
}

// -1/-1 is what QEMU sends when it could not read the clock.
std::int64_t wall_us(const json::object& message) {
  const json::value* stamp = message.if_contains("timestamp");
  const json::object* object = stamp ? stamp->if_object() : nullptr;
  if (!object) return -1;
  const json::value* seconds = object->if_contains("seconds");
  const json::value* micros = object->if_contains("microseconds");
  if (!seconds || !micros || !seconds->is_int64() || !micros->is_int64()) return -1;
  constexpr std::int64_t kMaxSeconds = 9'000'000'000'000;
  const std::int64_t s = seconds->get_int64();
  const std::int64_t us = micros->get_int64();
  if (s < 0 || s > kMaxSeconds || us < 0 || us >= 1'000'000) return -1;
  return s * 1'000'000 + us;
}

void take_greeting(Message& message, json::object& qmp) {
  message.type = MessageType::greeting;
  if (json::value* version = qmp.if_contains("version"); version && version->is_object())
    message.version = std::move(version->get_object());
  if (json::value* capabilities = qmp.if_contains("capabilities"); capabilities && capabilities->is_array())
    message.capabilities = std::move(capabilities->get_array());
}

void take_event(Message& message, json::object& root, const json::string& name) {
  message.type = MessageType::event;
  message.event = std::string(name);
  message.wall_us = wall_us(root);
  if (json::value* data = root.if_contains("data"); data && data->is_object())
    message.data = std::move(data->get_object());
}

Message classify(json::object& root) {
  Message message;
  if (json::value* id = root.if_contains("id")) message.id = std::move(*id);
  if (json::value* qmp = root.if_contains("QMP"); qmp && qmp->is_object()) {
    take_greeting(message, qmp->get_object());
  } else if (json::value* event = root.if_contains("event"); event && event->is_string()) {
    take_event(message, root, event->get_string());
  } else if (json::value* error = root.if_contains("error"); error && error->is_object()) {
    message.type = MessageType::error;
    message.error_class = text_of(error->get_object(), "class");
    message.error_text = text_of(error->get_object(), "desc");
  } else if (json::value* value = root.if_contains("return")) {
    message.type = MessageType::return_;
    message.value = std::move(*value);
  }
  return message;
}

Result<json::object> parse_object(std::string_view line) {
  if (too_many_values(line)) return malformed("a QMP message with too many values");
  json::parse_options options;
  options.max_depth = kMaxDepth;
  unsigned char buffer[4096];
  json::parser parser({}, options, buffer);
  boost::system::error_code error;
  parser.write(line.data(), line.size(), error);
  if (error) return malformed("a line that is not JSON (" + error.message() + ")");
  json::value root = parser.release();
  if (!root.is_object()) return malformed("a line that is JSON but no object");
  return std::move(root.get_object());
}

Result<Message> parse(std::string_view line) {
  auto object = parse_object(line);
  if (!object) return object.error();
  return classify(*object);
}

// QEMU's strings may stand in single quotes, JSON's may not.
std::string with_double_quotes(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  char quote = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (quote != 0 && c == '\\' && at + 1 < text.size()) {
      const char next = text[++at];
      if (next != '\'') out += c;
      out += next;
    } else if (quote == 0 && (c == '"' || c == '\'')) {
      quote = c;
      out += '"';
    } else if (quote != 0 && c == quote) {
      quote = 0;
      out += '"';
    } else if (quote == '\'' && c == '"') {
      out += "\\\"";
    } else {
      out += c;
    }
  }
  return out;
}

Result<CommandMessage> parse_command_text(std::string_view text) {
  auto object = parse_object(text);
  if (!object && text.find('\'') != std::string_view::npos) object = parse_object(with_double_quotes(text));
  if (!object) return object.error();
  CommandMessage out;
  const json::value* name = object->if_contains("execute");
  if (!name) {
    name = object->if_contains("exec-oob");
    out.out_of_band = name != nullptr;
  }
  if (!name || !name->is_string()) return malformed("a JSON object that is no command");
  out.name = std::string(name->get_string());
  if (json::value* id = object->if_contains("id")) out.id = std::move(*id);
  if (json::value* arguments = object->if_contains("arguments"); arguments && arguments->is_object())
    out.arguments = std::move(arguments->get_object());
  return out;
}

}  // namespace

bool Message::offers(std::string_view name) const {
  return std::any_of(capabilities.begin(), capabilities.end(), [name](const json::value& value) {
    return value.is_string() && std::string_view(value.get_string()) == name;
  });
}

Result<Message> parse_message(std::string_view line) noexcept {
  try {
    return parse(line);
  } catch (const std::exception&) {
    return malformed("a line that takes too much memory");
  }
}

Result<CommandMessage> parse_command(std::string_view text) noexcept {
  try {
    return parse_command_text(text);
  } catch (const std::exception&) {
    return malformed("a command that takes too much memory");
  }
}

std::string format_command(std::string_view command, const boost::json::object& arguments, std::uint64_t id,
                           bool out_of_band) {
  json::object message;
  message[out_of_band ? "exec-oob" : "execute"] = command;
  if (!arguments.empty()) message["arguments"] = arguments;
  message["id"] = id;
  return json::serialize(message) + "\n";
}

}  // namespace vmwhy::qmp::proto
