// SPDX-License-Identifier: BSD-2-Clause
#include "core/text.hpp"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <cstdlib>

namespace vmwhy {
namespace {

struct Decoded {
  char32_t code = 0;
  std::size_t length = 0;  // 0: not valid UTF-8.
};

constexpr bool continues(unsigned char c) {
  return (c & 0xC0) == 0x80;
}

Decoded decode(std::string_view text) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t length = lead >= 0xF0 && lead <= 0xF4 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 0;
  if (length == 0 || lead > 0xF4 || text.size() < length) return {};
  char32_t code = lead & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if (!continues(at(i))) return {};
    code = (code << 6) | (at(i) & 0x3Fu);
  }
  constexpr std::array<char32_t, 5> kLeast{0, 0, 0x80, 0x800, 0x10000};
  if (code < kLeast[length] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return {};
  return {code, length};
}

// What must not reach a terminal: C0, DEL and C1 controls; marks and overrides that reorder a line; what
// takes no room; line and paragraph separators; tags.
constexpr bool unsafe(char32_t c) {
  return c < 0x20 || (c >= 0x7F && c <= 0x9F) || c == 0x61C || c == 0xAD || (c >= 0x200B && c <= 0x200F) ||
         (c >= 0x2028 && c <= 0x202E) || (c >= 0x2060 && c <= 0x206F) || c == 0xFEFF ||
         (c >= 0xFFF9 && c <= 0xFFFB) || (c >= 0xE0000 && c <= 0xE0FFF);
}

// One decimal, none where it is zero; `value` in tenths.
std::string tenths(std::uint64_t value) {
  return value % 10 == 0 ? fmt::format("{}", value / 10) : fmt::format("{}.{}", value / 10, value % 10);
}

// `value` / `unit` in tenths, rounded, without overflow.
std::uint64_t in_tenths(std::uint64_t value, std::uint64_t unit) {
  return value / unit * 10 + (value % unit * 10 + unit / 2) / unit;
}

}  // namespace

std::string printable(std::string_view text, std::size_t limit) {
  std::string out;
  out.reserve(std::min(text.size(), limit));
  std::size_t taken = 0;
  while (!text.empty()) {
    const Decoded next = decode(text);
    const std::size_t length = next.length == 0 ? 1 : next.length;
    if (taken + length > limit) {
      out += "…";
      break;
    }
    if (next.length == 0 || next.code < 0x80) {
      const auto byte = static_cast<unsigned char>(text[0]);
      if (next.length == 0 || unsafe(next.code))
        out += fmt::format("\\x{:02x}", byte);
      else
        out += text[0];
    } else if (!unsafe(next.code)) {
      out += text.substr(0, length);
    } else {
      out += next.code <= 0xFFFF ? fmt::format("\\u{:04x}", static_cast<std::uint32_t>(next.code))
                                 : fmt::format("\\u{{{:x}}}", static_cast<std::uint32_t>(next.code));
    }
    text.remove_prefix(length);
    taken += length;
  }
  return out;
}

std::string json_safe(std::string_view json) {
  std::string out;
  out.reserve(json.size());
  while (!json.empty()) {
    const Decoded next = decode(json);
    if (next.length == 0) {
      out += "\\ufffd";
    } else if (!unsafe(next.code)) {
      out += json.substr(0, next.length);
    } else if (next.code <= 0xFFFF) {
      out += fmt::format("\\u{:04x}", static_cast<std::uint32_t>(next.code));
    } else {
      const auto rest = static_cast<std::uint32_t>(next.code) - 0x10000;
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
    }
    json.remove_prefix(next.length == 0 ? 1 : next.length);
  }
  return out;
}

std::string human_bytes(std::uint64_t bytes) {
  if (bytes == 0) return "0 bytes";
  if (bytes < 1024) return fmt::format("{} B", bytes);
  constexpr std::array<std::string_view, 6> kUnits{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  std::size_t unit = 0;
  std::uint64_t scale = 1024;
  // 1023.95 KiB and more would round to "1024 KiB".
  while (unit + 1 < kUnits.size() && in_tenths(bytes, scale) >= 10240) {
    scale *= 1024;
    ++unit;
  }
  return fmt::format("{} {}", tenths(in_tenths(bytes, scale)), kUnits[unit]);
}

std::string human_duration(std::int64_t ns) {
  const std::uint64_t value = ns < 0 ? 0 - static_cast<std::uint64_t>(ns) : static_cast<std::uint64_t>(ns);
  const std::string sign = ns < 0 ? "-" : "";
  // One decimal below ten, none above.
  const auto scaled = [&](std::uint64_t unit, std::string_view name) {
    const std::uint64_t fine = in_tenths(value, unit);
    return fmt::format("{}{} {}", sign, fine < 100 ? tenths(fine) : tenths((fine + 5) / 10 * 10), name);
  };
  if (value < 1'000) return fmt::format("{}{} ns", sign, value);
  if (value < 999'500) return scaled(1'000, "µs");
  if (value < 999'500'000) return scaled(1'000'000, "ms");
  if (in_tenths(value, 1'000'000'000) < 600)
    return fmt::format("{}{} s", sign, tenths(in_tenths(value, 1'000'000'000)));
  const std::uint64_t seconds = (value + 500'000'000) / 1'000'000'000;
  const auto pair = [&](std::uint64_t big, std::string_view big_name, std::uint64_t small,
                        std::string_view small_name) {
    const std::uint64_t rest = seconds % big / small;
    std::string out = fmt::format("{}{} {}", sign, seconds / big, big_name);
    return rest == 0 ? out : out + fmt::format(" {} {}", rest, small_name);
  };
  if (seconds < 3600) return pair(60, "min", 1, "s");
  if (seconds < 86400) return pair(3600, "h", 60, "min");
  return pair(86400, "d", 3600, "h");
}

std::string relative_time(std::int64_t ns) {
  const std::uint64_t value = ns < 0 ? 0 - static_cast<std::uint64_t>(ns) : static_cast<std::uint64_t>(ns);
  const std::uint64_t ms = (value + 500'000) / 1'000'000;
  return fmt::format("{}{}.{:03}s", ns < 0 ? '-' : '+', ms / 1000, ms % 1000);
}

std::string iso_time(std::int64_t realtime_ns) {
  using namespace std::chrono;
  const auto micros = floor<microseconds>(nanoseconds(realtime_ns));
  const auto day = floor<days>(micros);
  const year_month_day date{sys_days(day)};
  const hh_mm_ss<microseconds> time(micros - day);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z", static_cast<int>(date.year()),
                     static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                     time.hours().count(), time.minutes().count(), time.seconds().count(),
                     time.subseconds().count());
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\v\f";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

}  // namespace vmwhy
