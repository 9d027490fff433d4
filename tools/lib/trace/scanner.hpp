// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Finds the good blocks in the bytes of a file that may be cut, damaged or growing, one after the other, and
// keeps count of what lies between them. Time is linear in the file's size whatever it holds; memory is one
// block. One thread.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/failure.hpp"
#include "core/unique_fd.hpp"
#include "trace/block.hpp"

namespace vmwhy::trace {

/// Bytes of a file or in memory.
class Source {
 public:
  explicit Source(std::string bytes) : bytes_(std::move(bytes)) {}
  explicit Source(UniqueFd fd) : fd_(std::move(fd)) {}

  std::uint64_t size() const;
  /// Exactly `length` bytes; false where they are not there or cannot be read.
  bool read(std::uint64_t offset, char* to, std::size_t length) const;

 private:
  UniqueFd fd_;
  std::string bytes_;
};

class Scanner {
 public:
  /// Opens a regular file. Errors: errno, naming the path.
  static Result<Source> open_file(const std::string& path);

  explicit Scanner(Source source) : source_(std::move(source)) {}

  /// Reads the file header. Errors: a ReadErrc. After one next() may still be called: it looks for blocks
  /// from the beginning of the file.
  std::optional<Failure> read_file_header(const std::string& name);

  /// The next good block. Its views are valid until the next call.
  /// @return false: no complete block follows now; a later call may find one if the file grows.
  bool next(StoredBlock& block);

  const FileHeader& file_header() const { return file_header_; }
  std::uint64_t size() const { return source_.size(); }

  /// Damage that lies behind next(); and the bytes of a last block that is not complete (yet).
  std::uint64_t damaged_blocks() const { return damaged_blocks_; }
  std::uint64_t damaged_bytes() const { return damaged_bytes_; }
  std::uint64_t tail_bytes() const { return tail_bytes_; }
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  bool end_here(std::uint64_t tail);
  void damage_until(std::uint64_t offset, std::string_view what);
  std::uint64_t find_block(std::uint64_t from, std::uint64_t size, bool complete_only) const;
  bool good_header_at(std::uint64_t offset) const;

  Source source_;
  FileHeader file_header_{};
  std::uint64_t offset_ = 0;
  std::uint64_t damaged_blocks_ = 0;
  std::uint64_t damaged_bytes_ = 0;
  std::uint64_t tail_bytes_ = 0;
  std::uint64_t hashed_in_vain_ = 0;
  std::uint64_t ended_at_size_ = UINT64_MAX;  // The size at which `offset_` was found to be the end.
  std::string buffer_;
  std::vector<std::string> notes_;
};

}  // namespace vmwhy::trace
