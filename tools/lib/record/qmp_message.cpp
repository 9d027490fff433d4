// SPDX-License-Identifier: BSD-2-Clause
#include "record/qmp_message.hpp"

#include <string>

#include "record/secrets.hpp"

namespace vmwhy::record {
namespace {

trace::QmpKind kind_of(qmp::MessageKind kind) {
  switch (kind) {
    case qmp::MessageKind::greeting:
      return trace::QmpKind::greeting;
    case qmp::MessageKind::event:
      return trace::QmpKind::event;
    case qmp::MessageKind::command:
      return trace::QmpKind::command;
    case qmp::MessageKind::return_:
      return trace::QmpKind::return_;
    case qmp::MessageKind::error:
      return trace::QmpKind::error;
    case qmp::MessageKind::unparsable:
      break;
  }
  return trace::QmpKind::unparsable;
}

}  // namespace

trace::OwnedRecord qmp_message(std::uint32_t vm, const qmp::Traffic& traffic) {
  trace::QmpMessage message{};
  message.sent_ns = traffic.sent_ns;
  message.wall_us = traffic.wall_us;
  message.kind = static_cast<std::uint32_t>(kind_of(traffic.kind));
  std::string text =
      traffic.kind == qmp::MessageKind::return_ ? mask_secrets(traffic.json) : std::string(traffic.json);
  if (text.size() > kMessageLimit) {
    message.cut_bytes = static_cast<std::uint32_t>(text.size() - kMessageLimit);
    text.resize(kMessageLimit);
  }
  return trace::make_record(traffic.time_ns, vm, message, trace::join_text({traffic.command, text}));
}

}  // namespace vmwhy::record
