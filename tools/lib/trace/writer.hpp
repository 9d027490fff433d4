// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Writes a .vmt file: collects records into blocks on the caller's thread, compresses and writes them on its
// own. docs/trace-format.md is the format. The caller never waits for the disk: where the writing thread
// cannot keep up, or the disk is full, records are dropped and counted, and the count is stored as soon as
// something can be.

#include <boost/json/object.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "core/failure.hpp"
#include "trace/record.hpp"

namespace vmwhy::trace {

struct WriterOptions {
  std::chrono::milliseconds flush_interval{1000};  ///< A record is on disk after this at the latest.
  std::size_t block_bytes = 1u << 20;              ///< Raw bytes that close a block.
  std::size_t queue_bytes = 64u << 20;             ///< Raw bytes that may wait for the writing thread.
  int level = 1;                                   ///< zstd's.
};

/// What a writer did so far.
struct WriterStats {
  std::uint64_t records = 0;
  std::uint64_t lost = 0;   ///< Dropped here: queue full, or disk error.
  std::uint64_t bytes = 0;  ///< In the file.
  std::string error;        ///< First error of the disk; empty while all is well. Recording has ended then.
};

class Writer {
 public:
  /// Creates `path` with mode 0600, never through a symbolic link; an existing regular file is replaced only
  /// when it is a trace or empty. Writes the file header and the first meta block before it returns.
  /// @param meta  What the trace says of itself; the record schema is added.
  /// Errors: errno with the path and the remedy.
  static Result<std::unique_ptr<Writer>> create(const std::string& path, boost::json::object meta,
                                                WriterOptions options = {});
  /// close(), ignoring its result.
  ~Writer();

  /// Copies the record into the open block. Never blocks on the disk. One thread only.
  void append(const RecordView& record);

  /// Hands the open block to the writing thread now; called at every incident and by a timer of the recorder.
  /// Does not wait.
  void flush();

  /// As flush, then waits until everything appended so far has been written (not fsynced) or `timeout` has
  /// passed.
  bool sync(std::chrono::milliseconds timeout);

  /// Another meta block: later values override earlier ones, key by key.
  void add_meta(boost::json::object meta);

  WriterStats stats() const;

  /// Flushes, writes index and end block, fsyncs and closes. Errors: the first error of the disk.
  Result<WriterStats> close();

 private:
  class Impl;
  explicit Writer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace vmwhy::trace
