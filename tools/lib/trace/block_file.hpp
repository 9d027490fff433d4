// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A trace file that is being written: blocks go to its end, the index grows in memory, the first error stays.
// One thread at a time.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/unique_fd.hpp"
#include "trace/block.hpp"

namespace vmwhy::trace {

class BlockFile {
 public:
  BlockFile(UniqueFd fd, std::string path, int level)
      : fd_(std::move(fd)), path_(std::move(path)), packer_(level) {}

  /// Writes bytes as they are: the file header, a block of another file. False: error() says why.
  bool write(std::string_view bytes);

  /// Packs and writes a block; its sequence number is given here. False: nothing of it is in the file.
  bool write_block(BlockFacts facts, std::string_view raw);

  /// A block packed elsewhere, as it is; later blocks count on from its sequence number.
  bool copy_block(const StoredBlock& block);

  /// Holds room for the end block in a nameless file of the same folder, where that can be had: it is let go
  /// when the disk is full, for the half block that is taken back may not free any.
  void keep_spare();

  /// Index and end block. After an error the end block alone, if there is room for it again.
  /// @param end_json  What the end block says.
  /// @param lost      For its header.
  void finish(std::string_view end_json, std::uint64_t lost);

  /// fsync and close. False: error().
  bool close();

  std::uint64_t bytes() const { return offset_; }
  std::uint64_t blocks() const { return blocks_; }
  /// The first error, a sentence; empty: none.
  const std::string& error() const { return error_; }
  int error_number() const { return error_number_; }

 private:
  bool put(std::string_view bytes);
  void fail(int error);

  UniqueFd fd_;
  UniqueFd spare_;
  std::string path_;
  Packer packer_;
  std::uint64_t offset_ = 0;
  std::uint64_t blocks_ = 0;
  std::uint64_t sequence_ = 0;
  std::vector<IndexEntry> index_;
  std::string error_;
  int error_number_ = 0;
};

}  // namespace vmwhy::trace
