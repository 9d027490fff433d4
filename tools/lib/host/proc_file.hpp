// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Reading the small files of /proc, /sys and cgroups. Only for files that the kernel answers from memory:
// never for what takes the watched process's mmap lock (cmdline, environ, maps, mem) or touches its storage.
// Any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/failure.hpp"
#include "core/unique_fd.hpp"

namespace vmwhy::host {

/// The whole file, at most `limit` bytes. Errors: errno with the path.
Result<std::string> read_small_file(const std::string& path, std::size_t limit = 64u << 10);

/// As read_small_file, empty where it cannot be read.
std::string read_or_empty(const std::string& path, std::size_t limit = 64u << 10);

/// A file read again and again without being opened again. A gone process answers ESRCH.
class KeptFile {
 public:
  KeptFile() = default;
  /// Nothing is open afterwards if that failed: read() then says so.
  explicit KeptFile(const std::string& path);
  bool is_open() const { return static_cast<bool>(fd_); }
  /// From the beginning; the view is valid until the next read of any KeptFile on this thread.
  /// Errors: errno.
  Result<std::string_view> read() const;

 private:
  UniqueFd fd_;
  int open_error_ = 0;
};

/// A decimal number; nothing for anything else.
std::optional<std::uint64_t> parse_u64(std::string_view text);

/// The value of a "Key:\tvalue" or "key value" line, trimmed; empty where there is none.
std::string_view value_of(std::string_view text, std::string_view key);

/// value_of as a number; 0 where there is none.
std::uint64_t number_of(std::string_view text, std::string_view key);

}  // namespace vmwhy::host
