// SPDX-License-Identifier: BSD-2-Clause
#include "host/proc_file.hpp"

#include <fcntl.h>

#include <array>
#include <cerrno>
#include <charconv>

namespace vmwhy::host {

Result<std::string> read_small_file(const std::string& path, std::size_t limit) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd) return system_failure(errno, path);
  std::string out;
  std::array<char, 8192> buffer;
  while (out.size() < limit) {
    const ssize_t n = ::read(fd.get(), buffer.data(), std::min(buffer.size(), limit - out.size()));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_failure(errno, path);
    if (n == 0) break;
    out.append(buffer.data(), static_cast<std::size_t>(n));
  }
  return out;
}

std::string read_or_empty(const std::string& path, std::size_t limit) {
  auto text = read_small_file(path, limit);
  return text ? std::move(*text) : std::string();
}

KeptFile::KeptFile(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY)) {
  if (!fd_) open_error_ = errno;
}

Result<std::string_view> KeptFile::read() const {
  if (!fd_) return system_failure(open_error_ ? open_error_ : EBADF, {});
  thread_local std::array<char, 4096> buffer;
  const ssize_t n = ::pread(fd_.get(), buffer.data(), buffer.size(), 0);
  if (n < 0) return system_failure(errno, {});
  return std::string_view(buffer.data(), static_cast<std::size_t>(n));
}

std::optional<std::uint64_t> parse_u64(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string_view value_of(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (!line.starts_with(key)) continue;
    line.remove_prefix(key.size());
    if (line.empty() || (line.front() != ':' && line.front() != ' ' && line.front() != '\t')) continue;
    const auto begin = line.find_first_not_of(": \t");
    if (begin == std::string_view::npos) return {};
    const auto end = line.find_last_not_of(" \t\r");
    return line.substr(begin, end - begin + 1);
  }
  return {};
}

std::uint64_t number_of(std::string_view text, std::string_view key) {
  std::string_view value = value_of(text, key);
  value = value.substr(0, value.find(' '));
  return parse_u64(value).value_or(0);
}

}  // namespace vmwhy::host
