// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Reads a .vmt file block by block, from a file that may be cut, damaged, growing, or no trace at all. Memory
// is bounded by one block. Nothing in a file can make it crash or loop: every length is checked, every damage
// counted.

#include <boost/json/object.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/failure.hpp"
#include "trace/record.hpp"

namespace vmwhy::trace {

/// Why a file, or a part of it, cannot be read.
enum class ReadErrc {
  empty = 1,    ///< Zero bytes.
  not_a_trace,  ///< Wrong magic.
  newer_major,  ///< Written by a tool whose major version we do not know.
  header_cut,   ///< Shorter than the file header.
};
const boost::system::error_category& read_category() noexcept;
boost::system::error_code make_error_code(ReadErrc e) noexcept;

/// What reading found out about the file's health; complete once next_block() has said `end`.
struct ReadReport {
  std::uint32_t major = 0, minor = 0;
  std::uint64_t file_bytes = 0;
  std::uint64_t blocks = 0;
  std::uint64_t records = 0;
  std::uint64_t skipped_blocks = 0;  ///< Unknown kinds.
  std::uint64_t damaged_blocks = 0;  ///< Checksum, length or contents wrong; skipped.
  std::uint64_t damaged_bytes = 0;   ///< Bytes that belong to no good block.
  std::uint64_t lost = 0;            ///< Records that the writer says it dropped.
  std::uint64_t first_ns = 0, last_ns = 0;
  bool ended = false;  ///< The end block is there: recording was closed properly.
  bool newer_minor = false;
  std::vector<std::string> notes;  ///< A sentence for each thing above that a reader of a report should know.
};

class Reader {
 public:
  /// Opens a file and checks its header. Errors: errno, or a ReadErrc, with one clear sentence.
  static Result<std::unique_ptr<Reader>> open(const std::string& path);
  /// The same for bytes in memory (tests, fuzzers).
  static Result<std::unique_ptr<Reader>> from_bytes(std::string bytes);
  ~Reader();

  enum class Step {
    records,  ///< A block of records was read: visit() gives them.
    meta,     ///< meta() changed.
    end,      ///< No further block now. In a growing file a later call may find more.
  };
  Step next_block();

  /// The records of the block that next_block() just read, in the order in which they were recorded. The
  /// views are valid within the call.
  void visit(const std::function<void(const RecordView&)>& visitor) const;

  /// All meta blocks so far, merged.
  const boost::json::object& meta() const;
  const ReadReport& report() const;

  /// Reads on to the end, visiting every record.
  void for_each(const std::function<void(const RecordView&)>& visitor);

 private:
  class Impl;
  explicit Reader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Copies every good block of `from` into `to`, with a fresh index and end block that says it was recovered.
/// @return the report of reading `from`. Errors: as Reader::open and Writer::create.
Result<ReadReport> recover(const std::string& from, const std::string& to);

}  // namespace vmwhy::trace

template <>
struct boost::system::is_error_code_enum<vmwhy::trace::ReadErrc> : std::true_type {};
