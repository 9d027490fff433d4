// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/proto/line_splitter.hpp"

#include <algorithm>

namespace vmwhy::qmp::proto {
namespace {

// A buffer that a long reply made bigger than this is given back: hundreds of monitors live in one process.
constexpr std::size_t kKeptCapacity = 16u << 10;

bool blank(std::string_view text) {
  return text.find_first_not_of(" \t\r") == std::string_view::npos;
}

}  // namespace

void LineSplitter::forget() {
  buffer_.clear();
  if (buffer_.capacity() > kKeptCapacity) buffer_.shrink_to_fit();
  length_ = 0;
  overlong_ = false;
  returned_ = false;
}

void LineSplitter::take(std::string_view part) {
  length_ += part.size();
  if (overlong_) return;
  if (length_ <= max_) {
    buffer_.append(part);
    return;
  }
  overlong_ = true;
  const std::size_t keep = std::min(kKeptOfOverlong, max_);
  if (buffer_.size() < keep) buffer_.append(part.substr(0, keep - buffer_.size()));
  buffer_.resize(std::min(buffer_.size(), keep));
  buffer_.shrink_to_fit();
}

std::optional<Line> LineSplitter::next(std::string_view& bytes) {
  if (returned_) forget();
  while (!bytes.empty()) {
    const std::size_t end = bytes.find('\n');
    std::string_view part = bytes.substr(0, end);
    bytes.remove_prefix(end == std::string_view::npos ? bytes.size() : end + 1);
    const bool whole = length_ == 0 && part.size() <= max_;
    if (end == std::string_view::npos || !whole) take(part);
    if (end == std::string_view::npos) return std::nullopt;
    Line line{whole ? part : std::string_view(buffer_), whole ? part.size() : length_, overlong_};
    if (!line.overlong && line.text.ends_with('\r')) {
      line.text.remove_suffix(1);
      --line.length;
    }
    if (!line.overlong && blank(line.text)) {
      forget();
      continue;
    }
    returned_ = true;
    return line;
  }
  return std::nullopt;
}

}  // namespace vmwhy::qmp::proto
