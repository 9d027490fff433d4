// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One line of a trace script (trace_script.hpp), taken apart; and its times as a trace has them.

#include <sys/sysmacros.h>

#include <boost/json/value.hpp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vmwhy::test {

struct Line {
  double time = 0;
  std::string type;
  std::vector<std::string> words;
  std::map<std::string, std::string> values;
  boost::json::value data;  // null: none
  std::string text;

  std::string value(const std::string& key, std::string otherwise = {}) const {
    auto at = values.find(key);
    return at == values.end() ? otherwise : at->second;
  }
  std::string word(std::size_t n) const { return n < words.size() ? words[n] : std::string(); }
  bool has(const std::string& key) const { return values.count(key) > 0; }
  double number(const std::string& key, double otherwise = 0) const {
    return has(key) ? std::strtod(value(key).c_str(), nullptr) : otherwise;
  }
  std::uint64_t bytes(const std::string& key, std::uint64_t otherwise = 0) const {
    if (!has(key)) return otherwise;
    const std::string text = value(key);
    char* end = nullptr;
    const double amount = std::strtod(text.c_str(), &end);
    const std::string unit = end;
    const double scale = unit == "k" ? 1024.0 : unit == "m" ? 1048576.0 : unit == "g" ? 1073741824.0 : 1.0;
    return static_cast<std::uint64_t>(amount * scale);
  }
  std::uint64_t device(const std::string& key) const {
    unsigned major = 0, minor = 0;
    if (!has(key) || std::sscanf(value(key).c_str(), "%u:%u", &major, &minor) != 2) return 0;
    return makedev(major, minor);
  }
  std::uint32_t vm() const { return static_cast<std::uint32_t>(number("vm", 1)); }
};

/// CLOCK_BOOTTIME of a script's second, in ns.
std::uint64_t at(double seconds);
/// The same as µs since the epoch.
std::int64_t wall_us(double seconds);
/// A length of time in ns.
std::uint64_t span(double seconds);

/// "\\n" and "\\t" as the characters they stand for.
std::string unescape(std::string_view text);

/// @return what is wrong with it; "" if nothing is.
std::string parse_line(std::string_view line, Line& out);

/// The value of a name of a list; 0 for any other.
std::uint32_t named(const std::string& name,
                    std::initializer_list<std::pair<const char*, std::uint32_t>> names);

}  // namespace vmwhy::test
