// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What passes between a QEMU and a client of one of its monitors, as somebody hears it who is neither: bytes
// of both directions go in, messages come out, replies with what they answer and how long they took. The
// hearing may begin in the middle, and bytes may be missing: a message that was not whole is not guessed at.

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "qmp/proto/object_splitter.hpp"

namespace vmwhy::qmp::proto {

/// As QEMU sees it.
enum class Direction { in, out };

struct Overheard {
  enum class Kind {
    greeting,
    command,
    reply,
    error,
    event,
    gap,    ///< `lost_bytes` went by unheard, or belong to a message that is not whole.
    other,  ///< Something that is no QMP message; json is its beginning.
  };
  Kind kind = Kind::other;
  Direction direction = Direction::out;
  std::uint64_t time_ns = 0;     ///< Of the bytes that completed it.
  std::string_view json;         ///< Valid within the call.
  std::string command;           ///< Its name; of a reply, what it answers ("" where that was not heard).
  std::uint64_t sent_ns = 0;     ///< reply, error: when QEMU had received the command; 0: not heard.
  bool out_of_band = false;      ///< command.
  boost::json::value id;         ///< command, reply, error.
  boost::json::value body;       ///< command: arguments; reply: what was returned; event: data.
  std::string event;             ///< event.
  std::int64_t wall_us = -1;     ///< event: QEMU's stamp, µs since the epoch; -1: none.
  std::string error_class;       ///< error.
  std::string error_text;        ///< error: untrusted.
  std::uint64_t lost_bytes = 0;  ///< gap.
};

/// A command that has no reply yet.
struct Unanswered {
  std::string id;  ///< As JSON; "null" without one.
  std::string command;
  std::uint64_t received_ns = 0;
};

class Conversation {
 public:
  using Sink = std::function<void(const Overheard&)>;
  /// Commands kept for their replies; of more, the oldest are forgotten.
  static constexpr std::size_t kMaxUnanswered = 1024;

  /// @param from_start  The first bytes heard are the first that passed: nothing can be missing before them.
  explicit Conversation(bool from_start, std::size_t max_message_bytes = 64u << 20);

  void feed(Direction direction, std::string_view bytes, std::uint64_t time_ns, const Sink& sink);
  /// `bytes` of that direction were not heard.
  void miss(Direction direction, std::uint64_t bytes, std::uint64_t time_ns, const Sink& sink);

  /// Oldest first. A gap in what QEMU said empties it: the replies may be what was lost.
  const std::deque<Unanswered>& unanswered() const { return unanswered_; }

 private:
  void take_in(std::string_view text, Overheard& out);
  void take_out(std::string_view text, Overheard& out);
  void answer(Overheard& out);
  void forget_unanswered(Direction lost);
  void report_skipped(ObjectSplitter& splitter, Direction direction, std::uint64_t time_ns, const Sink& sink);

  ObjectSplitter in_, out_;
  bool fresh_[2];  ///< By direction: nothing was heard yet, and it may begin in the middle.
  std::deque<Unanswered> unanswered_;
};

}  // namespace vmwhy::qmp::proto
