// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/proto/object_splitter.hpp"

#include <algorithm>
#include <utility>

namespace vmwhy::qmp::proto {
namespace {

constexpr std::size_t kKeptCapacity = 64u << 10;
constexpr std::size_t kKeptOfOther = 256;
constexpr char kReset = '\xff';  // Clients that lost their place send it; QEMU then begins anew.

bool blank(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == kReset || c == '\0';
}

}  // namespace

bool begins_like_qmp(std::string_view bytes) {
  if (!bytes.starts_with('{')) return false;
  bytes.remove_prefix(1);
  while (!bytes.empty() && blank(bytes.front())) bytes.remove_prefix(1);
  if (bytes.empty() || (bytes.front() != '"' && bytes.front() != '\'')) return false;
  bytes.remove_prefix(1);
  for (const std::string_view member :
       {"QMP", "return", "error", "timestamp", "event", "id", "execute", "exec-oob", "arguments"})
    if (bytes.starts_with(member) && bytes.size() > member.size() &&
        (bytes[member.size()] == '"' || bytes[member.size()] == '\''))
      return true;
  return false;
}

void ObjectSplitter::reset() {
  buffer_.clear();
  if (buffer_.capacity() > kKeptCapacity) buffer_.shrink_to_fit();
  state_ = State::between;
  depth_ = 0;
  quote_ = 0;
  escaped_ = false;
  returned_ = false;
}

void ObjectSplitter::lose() {
  if (!returned_) skipped_ += buffer_.size();
  reset();
  state_ = State::lost;
  line_start_ = false;
}

void ObjectSplitter::expect_begin() {
  if (state_ == State::lost) reset();
}

std::size_t ObjectSplitter::take_skipped() {
  return std::exchange(skipped_, 0);
}

void ObjectSplitter::keep(std::string_view part) {
  const std::size_t limit = state_ == State::object ? max_ : kKeptOfOther;
  buffer_.append(part.substr(0, limit - std::min(limit, buffer_.size())));
}

// In `lost`: how many bytes stand before the beginning of an object, all of them if there is none.
std::size_t ObjectSplitter::find_begin(std::string_view bytes) {
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    const char c = bytes[at];
    if (c == '{' && (line_start_ || (at == 0 && begins_like_qmp(bytes)))) return at;
    line_start_ = c == '\n';
  }
  return bytes.size();
}

// @return how many bytes belong to the object; all of them if it does not end here. depth_ is 0 if it ends.
std::size_t ObjectSplitter::scan_object(std::string_view bytes) {
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    const char c = bytes[at];
    if (quote_ != 0) {
      if (escaped_)
        escaped_ = false;
      else if (c == '\\')
        escaped_ = true;
      else if (c == quote_)
        quote_ = 0;
      continue;
    }
    if (c == '"' || c == '\'') quote_ = c;
    if (c == '{' || c == '[') ++depth_;
    if (c == '}' || c == ']') --depth_;
    if (depth_ == 0) return at + 1;
  }
  return bytes.size();
}

std::optional<ObjectSplitter::Piece> ObjectSplitter::next(std::string_view& bytes) {
  if (returned_) reset();
  while (!bytes.empty()) {
    if (state_ == State::lost) {
      const std::size_t passed = find_begin(bytes);
      skipped_ += passed;
      bytes.remove_prefix(passed);
      if (bytes.empty()) return std::nullopt;
      reset();
    }
    if (state_ == State::between) {
      if (blank(bytes.front())) {
        bytes.remove_prefix(1);
        continue;
      }
      state_ = bytes.front() == '{' ? State::object : State::other;
    }
    // A reset within an object ends it: QEMU forgets what it has of it.
    const std::size_t cut = std::min(bytes.find(kReset), bytes.size());
    const std::string_view usable = bytes.substr(0, cut);
    const std::size_t taken =
        state_ == State::object ? scan_object(usable) : std::min(usable.find('\n'), usable.size());
    const bool ends = state_ == State::object ? depth_ == 0 && taken > 0 : taken < usable.size();
    const std::string_view part = usable.substr(0, taken);
    const bool object = state_ == State::object;
    if (object && buffer_.size() + part.size() > max_) {
      skipped_ += buffer_.size() + part.size();
      bytes.remove_prefix(taken);
      reset();
      state_ = State::lost;
      line_start_ = false;
      continue;
    }
    const bool whole = buffer_.empty() && ends;
    if (!whole) keep(part);
    bytes.remove_prefix(taken);
    if (!ends && cut == taken && !bytes.empty()) {  // The reset.
      skipped_ += buffer_.size();
      bytes.remove_prefix(1);
      reset();
      continue;
    }
    if (!ends) return std::nullopt;
    returned_ = true;
    return Piece{whole ? (object ? part : part.substr(0, kKeptOfOther)) : std::string_view(buffer_), object};
  }
  return std::nullopt;
}

}  // namespace vmwhy::qmp::proto
