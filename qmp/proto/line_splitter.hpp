// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Cuts a stream of bytes into lines, whatever pieces it arrives in. Knows nothing of JSON. Memory is bounded
// by the longest line allowed: of a longer one only the beginning is kept, and the stream is in step again
// after its end.

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace vmwhy::qmp::proto {

struct Line {
  std::string_view
      text;  ///< Without CR LF. Valid until the splitter's next call, and while the fed bytes are.
  std::size_t length = 0;  ///< Bytes of the whole line; more than text.size() if overlong.
  bool overlong = false;   ///< Longer than the limit: `text` is its beginning.
};

class LineSplitter {
 public:
  /// How much of an overlong line is kept, at most.
  static constexpr std::size_t kKeptOfOverlong = 256;

  explicit LineSplitter(std::size_t max_line_bytes) : max_(max_line_bytes) {}

  /// Takes bytes from the front of `bytes` up to the end of the next line that is not blank, and returns it;
  /// nothing (and `bytes` is empty) if the line is not complete. A line that lies wholly in `bytes` is not
  /// copied.
  std::optional<Line> next(std::string_view& bytes);

  /// Bytes of the line that is not complete yet.
  std::size_t pending() const { return returned_ ? 0 : length_; }
  /// What is kept of them.
  std::string_view pending_text() const { return returned_ ? std::string_view() : std::string_view(buffer_); }

 private:
  void take(std::string_view part);
  void forget();

  std::size_t max_;
  std::string buffer_;
  std::size_t length_ = 0;
  bool overlong_ = false;
  bool returned_ = false;
};

}  // namespace vmwhy::qmp::proto
