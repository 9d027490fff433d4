// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Cuts a stream of bytes into the JSON objects it consists of, as QEMU's own parser does: clients need not
// end a command by a line's end, pretty-printed replies have many of them, and strings may stand in single
// quotes. The stream may have holes: after one, what follows is passed over up to where an object surely
// begins.

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace vmwhy::qmp::proto {

class ObjectSplitter {
 public:
  /// @param max_bytes  A longer object is passed over, and counts as skipped.
  explicit ObjectSplitter(std::size_t max_bytes) : max_(max_bytes) {}

  struct Piece {
    /// Valid until the next call, and while the fed bytes are. What is no object (up to a line's end) is cut
    /// to 256 bytes.
    std::string_view text;
    bool is_object = false;
  };
  /// Takes bytes from the front of `bytes` up to the end of the next object or line of something else;
  /// nothing (and `bytes` is empty) if neither is complete.
  std::optional<Piece> next(std::string_view& bytes);

  /// Bytes are missing here.
  void lose();
  /// The next byte does not stand within an object, as is known from elsewhere.
  void expect_begin();
  /// Bytes passed over since the last call, for being part of something that was not whole.
  std::size_t take_skipped();

 private:
  enum class State { between, object, other, lost };
  std::size_t find_begin(std::string_view bytes);
  std::size_t scan_object(std::string_view bytes);
  void keep(std::string_view part);
  void reset();

  std::size_t max_;
  std::string buffer_;
  std::size_t skipped_ = 0;
  State state_ = State::between;
  int depth_ = 0;
  char quote_ = 0;
  bool escaped_ = false;
  bool line_start_ = false;  ///< lost: the last byte ended a line.
  bool returned_ = false;
};

/// Whether `bytes` begin like a message of a QMP monitor: the members that QEMU and its clients put first.
bool begins_like_qmp(std::string_view bytes);

}  // namespace vmwhy::qmp::proto
