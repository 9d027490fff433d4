// SPDX-License-Identifier: BSD-2-Clause
// The splitter, the session and an overheard conversation on arbitrary bytes. The first byte chooses the size
// of the pieces; what comes out must not depend on it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "qmp/proto/conversation.hpp"
#include "qmp/proto/events.hpp"
#include "qmp/proto/run_state.hpp"
#include "qmp/proto/session.hpp"

namespace {

using namespace vmwhy::qmp::proto;

struct Seen {
  std::vector<int> kinds;
  std::uint64_t dropped = 0;
  bool operator==(const Seen&) const = default;
};

Seen drive(std::string_view bytes, std::size_t piece) {
  Session session({4096, true});
  Seen seen;
  std::uint64_t now = 0;
  while (!bytes.empty()) {
    std::string_view part = bytes.substr(0, piece);
    bytes.remove_prefix(part.size());
    while (const auto incoming = session.next(part, ++now, now + 10)) {
      seen.kinds.push_back(static_cast<int>(incoming->kind));
      if (incoming->line.size() > 4096) std::abort();
      read_block_io_error(incoming->message.data);
      read_guest_panic(incoming->message.data);
      read_memory_failure(incoming->message.data);
      parse_run_status(incoming->message.value);
      session.take_output();
      std::uint64_t id = 0;
      if (session.may_send()) session.send("query-status", {}, now, now + 5, id);
      if (session.router().in_flight() > Router::kMaxInFlight) std::abort();
      session.router().expire(now);
    }
  }
  seen.dropped = session.router().dropped();
  return seen;
}

/// Kinds of what was heard; nothing where bytes had to be passed over: where an object begins then, is
/// guessed.
std::vector<int> hear(std::string_view bytes, std::size_t piece, Direction direction) {
  Conversation talk(true, 4096);
  std::vector<int> kinds;
  bool gap = false;
  std::uint64_t now = 0;
  while (!bytes.empty()) {
    const std::string_view part = bytes.substr(0, piece);
    bytes.remove_prefix(part.size());
    talk.feed(direction, part, ++now, [&](const Overheard& message) {
      if (message.json.size() > 4096) std::abort();
      gap = gap || message.kind == Overheard::Kind::gap;
      kinds.push_back(static_cast<int>(message.kind));
    });
    if (talk.unanswered().size() > Conversation::kMaxUnanswered) std::abort();
  }
  talk.miss(direction, 0, ++now, [&](const Overheard&) { gap = true; });
  if (gap) kinds.clear();
  return kinds;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (drive(bytes, 1u + data[0]) != drive(bytes, SIZE_MAX)) std::abort();
  for (const Direction direction : {Direction::in, Direction::out})
    if (hear(bytes, 1u + data[0], direction) != hear(bytes, SIZE_MAX, direction)) std::abort();
  return 0;
}
