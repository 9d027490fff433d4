// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Small helpers for text that people read. Whatever comes from a guest, a QEMU or a stranger's file passes
// through `printable` before it reaches a terminal.

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vmwhy {

/// `text` with control characters (newlines too), invalid UTF-8 and bidirectional overrides escaped as \xNN
/// or \uNNNN; cut with "…" where more than `limit` bytes of it would be taken.
std::string printable(std::string_view text, std::size_t limit = 4096);

/// A serialised JSON text that may go to a terminal: what printable() would escape is written as JSON's
/// \uNNNN, invalid UTF-8 becomes U+FFFD. Still the same JSON document.
std::string json_safe(std::string_view json);

/// "1.5 GiB", "512 B", "0 bytes": binary units, at most one decimal.
std::string human_bytes(std::uint64_t bytes);

/// "2.5 s", "340 ms", "12 µs", "3 min 5 s".
std::string human_duration(std::int64_t ns);

/// "-0.412s", "+12.003s": time relative to an incident, three decimals.
std::string relative_time(std::int64_t ns);

/// ISO 8601 in UTC with microseconds: "2026-11-23T00:13:27.123456Z".
std::string iso_time(std::int64_t realtime_ns);

/// The parts between separators; one empty part for an empty text. They are views of `text`.
std::vector<std::string_view> split(std::string_view text, char separator);
/// Without ASCII white space at both ends. A view of `text`.
std::string_view trim(std::string_view text);
/// A string that ends before the views of it do.
std::vector<std::string_view> split(std::same_as<std::string> auto&& text, char separator) = delete;
std::string_view trim(std::same_as<std::string> auto&& text) = delete;

}  // namespace vmwhy
