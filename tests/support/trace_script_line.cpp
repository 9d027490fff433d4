// SPDX-License-Identifier: BSD-2-Clause
#include "tests/support/trace_script_line.hpp"

#include <boost/json/parse.hpp>
#include <cmath>

#include "tests/support/trace_script.hpp"

namespace vmwhy::test {
namespace {

namespace json = boost::json;

/// The end of the JSON value that begins at `from`.
std::size_t json_end(std::string_view line, std::size_t from) {
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = from; i < line.size(); ++i) {
    if (quoted) {
      if (line[i] == '\\')
        ++i;
      else if (line[i] == '"')
        quoted = false;
    } else if (line[i] == '"') {
      quoted = true;
    } else if (line[i] == '{' || line[i] == '[') {
      ++depth;
    } else if ((line[i] == '}' || line[i] == ']') && --depth == 0) {
      return i + 1;
    }
  }
  return std::string_view::npos;
}

/// Reads one word or key=value, with double quotes around what holds spaces.
std::string next_word(std::string_view line, std::size_t& i) {
  std::string word;
  bool quoted = false;
  for (; i < line.size() && (quoted || line[i] != ' '); ++i) {
    if (line[i] == '"')
      quoted = !quoted;
    else
      word += line[i];
  }
  return word;
}

}  // namespace

std::string unescape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size() && (text[i + 1] == 'n' || text[i + 1] == 't')) {
      out += text[++i] == 'n' ? '\n' : '\t';
    } else {
      out += text[i];
    }
  }
  return out;
}

std::uint64_t at(double seconds) {
  return kScriptBoottimeNs + static_cast<std::uint64_t>(std::llround(seconds * 1e6)) * 1000;
}
std::int64_t wall_us(double seconds) {
  return kScriptRealtimeNs / 1000 + static_cast<std::int64_t>(std::llround(seconds * 1e6));
}
std::uint64_t span(double seconds) {
  return static_cast<std::uint64_t>(std::llround(seconds * 1e9));
}

std::string parse_line(std::string_view line, Line& out) {
  std::size_t i = 0;
  bool first = true;
  while (i < line.size()) {
    if (line[i] == ' ') {
      ++i;
      continue;
    }
    if (line.substr(i, 3) == "-- ") {
      out.text = unescape(line.substr(i + 3));
      break;
    }
    if (line[i] == '{' || line[i] == '[') {
      const std::size_t end = json_end(line, i);
      if (end == std::string_view::npos) return "JSON without an end";
      boost::system::error_code error;
      const std::string_view text = line.substr(i, end - i);
      out.data = json::parse(json::string_view(text.data(), text.size()), error);
      if (error) return "bad JSON: " + std::string(text);
      i = end;
      continue;
    }
    const std::string word = next_word(line, i);
    const std::size_t equals = word.find('=');
    if (first) {
      char* end = nullptr;
      out.time = std::strtod(word.c_str(), &end);
      if (*end != '\0') return "no time: " + word;
      first = false;
    } else if (out.type.empty()) {
      out.type = word;
    } else if (equals != std::string::npos) {
      out.values[word.substr(0, equals)] = word.substr(equals + 1);
    } else {
      out.words.push_back(word);
    }
  }
  return out.type.empty() ? "no type" : "";
}

std::uint32_t named(const std::string& name,
                    std::initializer_list<std::pair<const char*, std::uint32_t>> names) {
  for (const auto& [known, value] : names)
    if (name == known) return value;
  return 0;
}

}  // namespace vmwhy::test
