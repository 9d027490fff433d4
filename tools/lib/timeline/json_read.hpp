// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Reading members of JSON that may hold anything: a member of another type counts as absent.

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <string>
#include <string_view>

namespace vmwhy::timeline {

/// The text of `object[key]`, cut after `limit` bytes; "" if it is not there, or no text.
std::string text_of(const boost::json::object& object, std::string_view key, std::size_t limit = 1024);
bool bool_of(const boost::json::object& object, std::string_view key, bool otherwise = false);
std::int64_t int_of(const boost::json::object& object, std::string_view key, std::int64_t otherwise = 0);
/// nullptr if it is not there, or no object.
const boost::json::object* object_of(const boost::json::object& object, std::string_view key);
const boost::json::array* array_of(const boost::json::object& object, std::string_view key);

/// Parses bounded text; a null value for what is no JSON, too deep, or longer than a mebibyte.
boost::json::value parse_json(std::string_view text);

}  // namespace vmwhy::timeline
