// SPDX-License-Identifier: BSD-2-Clause
#include "tap/tap_records.hpp"

#include <algorithm>

#include "record/qmp_message.hpp"
#include "trace/tap_records.hpp"

namespace vmwhy::tap {
namespace {

using Kind = qmp::proto::Overheard::Kind;

trace::QmpKind kind_of(Kind kind) {
  switch (kind) {
    case Kind::greeting:
      return trace::QmpKind::greeting;
    case Kind::command:
      return trace::QmpKind::command;
    case Kind::reply:
      return trace::QmpKind::return_;
    case Kind::error:
      return trace::QmpKind::error;
    case Kind::event:
      return trace::QmpKind::event;
    case Kind::gap:
    case Kind::other:
      break;
  }
  return trace::QmpKind::unparsable;
}

}  // namespace

trace::OwnedRecord message_record(std::uint32_t vm, std::uint32_t link, const qmp::proto::Overheard& message,
                                  const std::string& json) {
  if (message.kind == Kind::gap) {
    trace::QmpGap gap{};
    gap.bytes = message.lost_bytes;
    gap.link = link;
    gap.direction = message.direction == qmp::proto::Direction::in ? 0 : 1;
    return trace::make_record(message.time_ns, vm, gap);
  }
  trace::QmpMessage out{};
  out.sent_ns = message.sent_ns;
  out.wall_us = message.kind == Kind::event ? message.wall_us : -1;
  out.kind = static_cast<std::uint32_t>(kind_of(message.kind));
  out.link = link;
  const std::size_t kept = std::min(json.size(), record::kMessageLimit);
  out.cut_bytes = static_cast<std::uint32_t>(json.size() - kept);
  return trace::make_record(message.time_ns, vm, out,
                            trace::join_text({message.command, std::string_view(json).substr(0, kept)}));
}

trace::OwnedRecord peer_record(std::uint32_t vm, std::uint32_t link, const Wire& wire, Change change,
                               std::uint64_t time_ns, std::uint64_t waited_ns) {
  trace::QmpPeer out{};
  out.waited_ns = waited_ns;
  out.link = link;
  out.pid = wire.peer.pid;
  out.uid = wire.peer.uid;
  switch (change) {
    case Change::opened:
      out.state = static_cast<std::uint32_t>(trace::QmpPeerState::connected);
      break;
    case Change::closed:
      out.state = static_cast<std::uint32_t>(trace::QmpPeerState::closed);
      break;
    case Change::ended:
      out.state = static_cast<std::uint32_t>(trace::QmpPeerState::ended);
      break;
    case Change::blocked:
      out.state = static_cast<std::uint32_t>(trace::QmpPeerState::blocked);
      break;
    case Change::flowing:
      out.state = static_cast<std::uint32_t>(trace::QmpPeerState::flowing);
      break;
  }
  const Peer& peer = wire.peer;
  return trace::make_record(time_ns, vm, out,
                            trace::join_text({wire.monitor, peer.comm, peer.command_line, peer.user,
                                              peer.container, peer.ancestors}));
}

}  // namespace vmwhy::tap
