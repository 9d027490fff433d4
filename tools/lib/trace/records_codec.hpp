// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The payload of a records block: grouped by type and size, columns where there is no text, and the order in
// which the records came. RecordsBuilder on the writing side, RecordsBlock on the reading side; each is used
// by one thread at a time.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "trace/format.hpp"
#include "trace/record.hpp"

namespace vmwhy::trace {

class RecordsBuilder {
 public:
  /// Adds a record, in the order of recording.
  /// @return false: it does not fit any block (text above kMaxTextBytes), or not this one (groups, bytes).
  bool add(const RecordView& record);

  bool empty() const { return records_ == 0; }
  std::uint32_t records() const { return records_; }
  std::size_t bytes() const { return bytes_; }  ///< As rows.
  std::uint64_t first_ns() const { return first_ns_; }
  std::uint64_t last_ns() const { return last_ns_; }

  /// The raw payload, appended to `out`.
  void encode(std::string& out) const;

  /// Empty again; memory is kept for the next block.
  void clear();

 private:
  struct Group {
    std::uint16_t type = 0;
    std::uint16_t size = 0;
    bool has_text = false;
    std::uint32_t records = 0;
    std::string rows;  // Without text: header and fixed part of each; with text: as in Layout::rows.
  };
  std::size_t find_group(std::uint16_t type, std::uint16_t size, bool has_text);

  std::vector<Group> groups_;  // The first used_ are in use.
  std::size_t used_ = 0;
  std::size_t last_group_ = 0;
  std::string order_;
  std::uint32_t records_ = 0;
  std::size_t bytes_ = 0;
  std::uint64_t first_ns_ = UINT64_MAX;
  std::uint64_t last_ns_ = 0;
};

class RecordsBlock {
 public:
  /// Takes a raw payload apart. Allocates at most kMaxBlockBytes besides it.
  /// @return false: it is malformed, or does not hold `records` records.
  bool decode(std::string raw, std::uint32_t records);

  void visit(const std::function<void(const RecordView&)>& visitor) const;
  void clear();

 private:
  struct Group {
    GroupHead head{};
    std::size_t begin = 0;  // In raw_ (rows) or expanded_ (columns).
  };
  bool decode_group(Group& group, std::string_view data, std::size_t at);

  std::string raw_;
  std::vector<char> expanded_;
  std::size_t expanded_used_ = 0;
  std::vector<Group> groups_;
  std::string_view order_;  // Into raw_.
};

}  // namespace vmwhy::trace
