// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Small helpers for text that people read. Whatever comes from a guest, a QEMU or a stranger's file passes
// through `printable` before it reaches a terminal.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vmwhy {

/// `text` with control characters, invalid UTF-8 and bidirectional overrides escaped as \xNN or \uNNNN; cut
/// after `limit` bytes with "…".
std::string printable(std::string_view text, std::size_t limit = 4096);

/// "1.5 GiB", "512 B", "0 bytes": binary units, at most one decimal.
std::string human_bytes(std::uint64_t bytes);

/// "2.5 s", "340 ms", "12 µs", "3 min 5 s".
std::string human_duration(std::int64_t ns);

/// "-0.412s", "+12.003s": time relative to an incident, three decimals.
std::string relative_time(std::int64_t ns);

/// ISO 8601 in UTC with microseconds: "2026-11-23T00:13:27.123456Z".
std::string iso_time(std::int64_t realtime_ns);

std::vector<std::string_view> split(std::string_view text, char separator);
std::string_view trim(std::string_view text);

}  // namespace vmwhy
