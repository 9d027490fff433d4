// SPDX-License-Identifier: BSD-2-Clause
#include "timeline/json_read.hpp"

#include <boost/json/parse.hpp>

namespace vmwhy::timeline {

namespace json = boost::json;

std::string text_of(const json::object& object, std::string_view key, std::size_t limit) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr || !value->is_string()) return {};
  const json::string& text = value->get_string();
  return std::string(text.data(), text.size() < limit ? text.size() : limit);
}

bool bool_of(const json::object& object, std::string_view key, bool otherwise) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_bool() ? value->get_bool() : otherwise;
}

std::int64_t int_of(const json::object& object, std::string_view key, std::int64_t otherwise) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr) return otherwise;
  if (value->is_int64()) return value->get_int64();
  if (value->is_uint64() && value->get_uint64() <= INT64_MAX)
    return static_cast<std::int64_t>(value->get_uint64());
  return otherwise;
}

const json::object* object_of(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr ? value->if_object() : nullptr;
}

const json::array* array_of(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr ? value->if_array() : nullptr;
}

json::value parse_json(std::string_view text) {
  constexpr std::size_t kLimit = 1u << 20;
  if (text.size() > kLimit) return nullptr;
  boost::system::error_code error;
  json::value value = json::parse(json::string_view(text.data(), text.size()), error);
  if (error) return nullptr;
  return value;
}

}  // namespace vmwhy::timeline
