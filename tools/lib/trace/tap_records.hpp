// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Records of conversations that others hold on a VM's monitors, beside QmpMessage, and of what goes on inside
// of QEMU; the rules are those of records.hpp. Types 80 to 87.

#include "trace/records.hpp"

namespace vmwhy::trace {

/// Links of QmpMessage from this number on are other clients' conversations: a command there was not sent by
/// us.
inline constexpr std::uint32_t kFirstHeardLink = 32;

enum class QmpPeerState : std::uint32_t {
  connected = 1,
  closed = 2,   ///< The client closed the connection, or died.
  blocked = 3,  ///< It does not read what QEMU has to send.
  flowing = 4,  ///< It reads again, after `waited_ns`.
  ended = 5,    ///< QEMU closed the connection, or it is no longer listened to.
};

/// Another client of one of the VM's monitors. Text: address of the monitor NUL comm NUL command line
/// (secrets masked) NUL user NUL container's identifier NUL parents, the nearest first.
struct QmpPeer {
  static constexpr auto kType = static_cast<RecordType>(80);
  std::uint64_t waited_ns;  ///< flowing: how long it did not read.
  std::uint32_t link;       ///< Which conversation, from kFirstHeardLink.
  std::uint32_t state;      ///< A QmpPeerState.
  std::uint32_t pid;        ///< Who connected; 0: not known.
  std::uint32_t uid;
};
static_assert(sizeof(QmpPeer) == 24);

/// Bytes of a conversation that were missed, or that belong to a message not heard whole.
struct QmpGap {
  static constexpr auto kType = static_cast<RecordType>(81);
  std::uint64_t bytes;
  std::uint32_t link;
  std::uint32_t direction;  ///< 0: to QEMU, 1: from it.
};
static_assert(sizeof(QmpGap) == 16);

/// One of QEMU's own functions was entered. Text: its name NUL what its arguments say NUL strings they point
/// to NUL its callers, the nearest first; both one to a line.
struct QemuCall {
  static constexpr auto kType = static_cast<RecordType>(82);
  std::uint64_t arguments[4];  ///< As the registers had them: of an int, only the lower half counts.
  std::uint32_t pid;
  std::uint32_t tid;
};
static_assert(sizeof(QemuCall) == 40);

/// What the management layer says of a VM's state. Text: who ("libvirt") NUL its words ("paused (user)").
struct OwnerState {
  static constexpr auto kType = static_cast<RecordType>(83);
  std::uint64_t asked_ns;
};
static_assert(sizeof(OwnerState) == 8);

}  // namespace vmwhy::trace
