// SPDX-License-Identifier: BSD-2-Clause
#include "trace/records_codec.hpp"

#include <algorithm>
#include <cstring>

#include "trace/columns.hpp"

namespace vmwhy::trace {
namespace {

// Below this columns cost more in their codings than they save.
constexpr std::uint32_t kLeastForColumns = 8;

template <class T>
void append_struct(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <class T>
T load(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// One record in Layout::rows at `at`; false if it goes beyond `data`.
bool row_fits(std::string_view data, std::size_t at, std::size_t fixed_bytes, std::size_t& next) {
  if (data.size() - at < sizeof(RowHead) + fixed_bytes) return false;
  const auto text_bytes = load<RowHead>(data.data() + at).text_bytes;
  at += sizeof(RowHead) + fixed_bytes;
  if (data.size() - at < text_bytes) return false;
  next = at + text_bytes;
  return true;
}

}  // namespace

std::size_t RecordsBuilder::find_group(std::uint16_t type, std::uint16_t size, bool has_text) {
  const auto matches = [&](const Group& g) {
    return g.type == type && g.size == size && g.has_text == has_text;
  };
  if (last_group_ < used_ && matches(groups_[last_group_])) return last_group_;
  for (std::size_t i = 0; i < used_; ++i) {
    if (matches(groups_[i])) return i;
  }
  if (used_ == kMaxGroups) return kMaxGroups;
  if (used_ == groups_.size()) groups_.emplace_back();
  Group& group = groups_[used_];
  group.type = type;
  group.size = size;
  group.has_text = has_text;
  return used_++;
}

bool RecordsBuilder::add(const RecordView& record) {
  if (record.fixed.size() > UINT16_MAX - sizeof(RecordHeader) || record.text.size() > kMaxTextBytes)
    return false;
  const std::size_t cost = sizeof(RowHead) + record.fixed.size() + record.text.size();
  // Half of the limit: heads, order and codings come on top.
  if (records_ != 0 && bytes_ + cost > kMaxBlockBytes / 2) return false;
  const auto size = static_cast<std::uint16_t>(sizeof(RecordHeader) + record.fixed.size());
  const std::size_t index = find_group(record.header.type, size, !record.text.empty());
  if (index == kMaxGroups) return false;

  Group& group = groups_[index];
  if (group.has_text) {
    append_struct(group.rows, RowHead{record.header.time_ns, record.header.vm,
                                      static_cast<std::uint32_t>(record.text.size())});
  } else {
    append_struct(group.rows,
                  RecordHeader{record.header.time_ns, record.header.type, size, record.header.vm});
  }
  group.rows += record.fixed;
  group.rows += record.text;
  ++group.records;
  order_ += static_cast<char>(index);
  last_group_ = index;
  ++records_;
  bytes_ += cost;
  first_ns_ = std::min(first_ns_, record.header.time_ns);
  last_ns_ = std::max(last_ns_, record.header.time_ns);
  return true;
}

void RecordsBuilder::encode(std::string& out) const {
  const std::size_t order_bytes = used_ > 1 ? order_.size() : 0;
  append_struct(out, RecordsHead{static_cast<std::uint32_t>(used_), static_cast<std::uint32_t>(order_bytes)});
  const std::size_t heads = out.size();
  out.resize(heads + used_ * sizeof(GroupHead));
  if (used_ > 1) out += order_;
  for (std::size_t i = 0; i < used_; ++i) {
    const Group& group = groups_[i];
    const std::size_t begin = out.size();
    GroupHead head{group.type, group.size, group.records, static_cast<std::uint32_t>(Layout::rows), 0};
    if (group.has_text) {
      out += group.rows;
    } else if (group.records >= kLeastForColumns) {
      head.layout = static_cast<std::uint32_t>(Layout::columns);
      encode_columns(group.rows, group.size, group.records, out);
    } else {
      for (std::size_t at = 0; at < group.rows.size(); at += group.size) {
        const auto header = load<RecordHeader>(group.rows.data() + at);
        append_struct(out, RowHead{header.time_ns, header.vm, 0});
        out.append(group.rows, at + sizeof(RecordHeader), group.size - sizeof(RecordHeader));
      }
    }
    head.data_bytes = static_cast<std::uint32_t>(out.size() - begin);
    std::memcpy(out.data() + heads + i * sizeof head, &head, sizeof head);
  }
}

void RecordsBuilder::clear() {
  for (std::size_t i = 0; i < used_; ++i) {
    groups_[i].records = 0;
    groups_[i].rows.clear();
  }
  used_ = last_group_ = 0;
  order_.clear();
  records_ = 0;
  bytes_ = 0;
  first_ns_ = UINT64_MAX;
  last_ns_ = 0;
}

bool RecordsBlock::decode_group(Group& group, std::string_view data, std::size_t at) {
  const GroupHead& head = group.head;
  const std::size_t fixed_bytes = head.size - sizeof(RecordHeader);
  if (head.layout == static_cast<std::uint32_t>(Layout::rows)) {
    group.begin = at;
    std::size_t next = 0;
    for (std::uint32_t i = 0; i < head.records; ++i) {
      if (!row_fits(data, next, fixed_bytes, next)) return false;
    }
    return next == data.size();
  }
  if (head.layout != static_cast<std::uint32_t>(Layout::columns) || head.records == 0) return false;
  const std::size_t bytes = std::size_t{head.records} * head.size;
  if (bytes > kMaxBlockBytes - expanded_used_) return false;
  group.begin = expanded_used_;
  expanded_used_ += bytes;
  if (expanded_.size() < expanded_used_) expanded_.resize(expanded_used_);
  return decode_columns(data, head.type, head.size, head.records, expanded_.data() + group.begin);
}

bool RecordsBlock::decode(std::string raw, std::uint32_t records) {
  clear();
  raw_ = std::move(raw);
  const std::string_view all = raw_;
  if (all.size() < sizeof(RecordsHead)) return false;
  const auto head = load<RecordsHead>(all.data());
  std::size_t at = sizeof(RecordsHead);
  if (head.groups > kMaxGroups || (all.size() - at) / sizeof(GroupHead) < head.groups) return false;
  groups_.resize(head.groups);
  std::uint64_t sum = 0;
  for (Group& group : groups_) {
    group.head = load<GroupHead>(all.data() + at);
    at += sizeof(GroupHead);
    sum += group.head.records;
    if (group.head.size < sizeof(RecordHeader)) return false;
  }
  const std::size_t order_bytes = head.groups > 1 ? records : 0;
  if (sum != records || head.order_bytes != order_bytes || all.size() - at < order_bytes) return false;
  order_ = all.substr(at, order_bytes);
  at += order_bytes;
  for (Group& group : groups_) {
    if (all.size() - at < group.head.data_bytes) return false;
    if (!decode_group(group, all.substr(at, group.head.data_bytes), at)) return false;
    at += group.head.data_bytes;
  }
  if (at != all.size()) return false;
  std::vector<std::uint32_t> counts(groups_.size());
  for (const char c : order_) {
    const auto index = static_cast<std::uint8_t>(c);
    if (index >= counts.size() || ++counts[index] > groups_[index].head.records) return false;
  }
  return true;
}

void RecordsBlock::visit(const std::function<void(const RecordView&)>& visitor) const {
  std::vector<std::size_t> cursors;
  cursors.reserve(groups_.size());
  for (const Group& group : groups_) cursors.push_back(group.begin);
  const auto give = [&](std::size_t index) {
    const GroupHead& head = groups_[index].head;
    std::size_t& at = cursors[index];
    const std::size_t fixed_bytes = head.size - sizeof(RecordHeader);
    if (head.layout == static_cast<std::uint32_t>(Layout::columns)) {
      const char* row = expanded_.data() + at;
      at += head.size;
      visitor({load<RecordHeader>(row), {row + sizeof(RecordHeader), fixed_bytes}, {}});
      return;
    }
    const char* row = raw_.data() + at;
    const auto row_head = load<RowHead>(row);
    row += sizeof(RowHead);
    at += sizeof(RowHead) + fixed_bytes + row_head.text_bytes;
    visitor({{row_head.time_ns, head.type, head.size, row_head.vm},
             {row, fixed_bytes},
             {row + fixed_bytes, row_head.text_bytes}});
  };
  if (groups_.size() == 1) {
    for (std::uint32_t i = 0; i < groups_[0].head.records; ++i) give(0);
  }
  for (const char c : order_) give(static_cast<std::uint8_t>(c));
}

void RecordsBlock::clear() {
  raw_.clear();
  expanded_used_ = 0;
  groups_.clear();
  order_ = {};
}

}  // namespace vmwhy::trace
