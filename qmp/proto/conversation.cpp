// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/proto/conversation.hpp"

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <utility>

#include "qmp/proto/command_message.hpp"
#include "qmp/proto/message.hpp"

namespace vmwhy::qmp::proto {

Conversation::Conversation(bool from_start, std::size_t max_message_bytes)
    : in_(max_message_bytes), out_(max_message_bytes), fresh_{!from_start, !from_start} {}

void Conversation::feed(Direction direction, std::string_view bytes, std::uint64_t time_ns,
                        const Sink& sink) {
  ObjectSplitter& splitter = direction == Direction::in ? in_ : out_;
  // The first words may be the end of a message whose beginning nobody heard. QEMU reads byte by byte, so of
  // a command only its first byte is looked at.
  if (bool& fresh = fresh_[static_cast<int>(direction)]; fresh && !bytes.empty()) {
    fresh = false;
    if (direction == Direction::in ? !bytes.starts_with('{') : !begins_like_qmp(bytes)) splitter.lose();
  }
  while (const auto piece = splitter.next(bytes)) {
    report_skipped(splitter, direction, time_ns, sink);
    Overheard out;
    out.direction = direction;
    out.time_ns = time_ns;
    out.json = piece->text;
    if (piece->is_object) direction == Direction::in ? take_in(piece->text, out) : take_out(piece->text, out);
    sink(out);
    // Most clients wait for a reply before they send the next command.
    if (direction == Direction::out && out.kind != Overheard::Kind::event) in_.expect_begin();
  }
}

void Conversation::miss(Direction direction, std::uint64_t bytes, std::uint64_t time_ns, const Sink& sink) {
  ObjectSplitter& splitter = direction == Direction::in ? in_ : out_;
  fresh_[static_cast<int>(direction)] = false;
  splitter.lose();
  Overheard gap;
  gap.kind = Overheard::Kind::gap;
  gap.direction = direction;
  gap.time_ns = time_ns;
  gap.lost_bytes = bytes + splitter.take_skipped();
  if (gap.lost_bytes == 0) return;
  forget_unanswered(direction);
  sink(gap);
}

// What was lost may have been the reply of any command that waits; and of what has no id, the next reply may
// answer a command that was lost.
void Conversation::forget_unanswered(Direction lost) {
  if (lost == Direction::out) unanswered_.clear();
  std::erase_if(unanswered_, [](const Unanswered& command) { return command.id == "null"; });
}

void Conversation::report_skipped(ObjectSplitter& splitter, Direction direction, std::uint64_t time_ns,
                                  const Sink& sink) {
  Overheard gap;
  gap.lost_bytes = splitter.take_skipped();
  if (gap.lost_bytes == 0) return;
  forget_unanswered(direction);
  gap.kind = Overheard::Kind::gap;
  gap.direction = direction;
  gap.time_ns = time_ns;
  sink(gap);
}

void Conversation::take_in(std::string_view text, Overheard& out) {
  auto command = parse_command(text);
  if (!command) return;
  out.kind = Overheard::Kind::command;
  out.command = std::move(command->name);
  out.out_of_band = command->out_of_band;
  out.id = std::move(command->id);
  out.body = std::move(command->arguments);
  if (unanswered_.size() >= kMaxUnanswered) unanswered_.pop_front();
  unanswered_.push_back({boost::json::serialize(out.id), out.command, out.time_ns});
}

void Conversation::take_out(std::string_view text, Overheard& out) {
  auto message = parse_message(text);
  if (!message) return;
  switch (message->type) {
    case MessageType::greeting:
      out.kind = Overheard::Kind::greeting;
      // A new session: nothing of an older one will be answered.
      unanswered_.clear();
      break;
    case MessageType::event:
      out.kind = Overheard::Kind::event;
      out.event = std::move(message->event);
      out.wall_us = message->wall_us;
      out.body = std::move(message->data);
      break;
    case MessageType::return_:
      out.kind = Overheard::Kind::reply;
      out.body = std::move(message->value);
      break;
    case MessageType::error:
      out.kind = Overheard::Kind::error;
      out.error_class = std::move(message->error_class);
      out.error_text = std::move(message->error_text);
      break;
    case MessageType::unknown:
      return;
  }
  if (out.kind != Overheard::Kind::reply && out.kind != Overheard::Kind::error) return;
  out.id = std::move(message->id);
  answer(out);
}

// QEMU answers in order, but for what runs out of band; and an error in what it could not even parse has no
// id.
void Conversation::answer(Overheard& out) {
  const std::string id = boost::json::serialize(out.id);
  const auto found = std::find_if(unanswered_.begin(), unanswered_.end(),
                                  [&](const Unanswered& command) { return command.id == id; });
  if (found == unanswered_.end()) return;
  out.command = found->command;
  out.sent_ns = found->received_ns;
  unanswered_.erase(found);
}

}  // namespace vmwhy::qmp::proto
