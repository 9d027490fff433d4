// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The record of a connection between QEMU's own client and a storage server; the rules are those of
// records.hpp. Type 75, of the storage's 72 to 79.

#include "trace/records.hpp"

namespace vmwhy::trace {

enum class StorageLinkState : std::uint32_t {
  connected = 1,
  gone = 2,    ///< QEMU has closed it, or the kernel gave it up.
  absent = 3,  ///< A node has this server, and QEMU no connection to it.
};

enum StorageLinkFlag : std::uint32_t {
  kLinkTcp = 1u << 0,           ///< Otherwise a Unix socket.
  kLinkHangs = 1u << 1,         ///< silent_ns is above the recorder's threshold.
  kLinkWindowClosed = 1u << 2,  ///< TCP: the server's machine has no room for more.
};

/// How it stands with one connection to a storage server (NBD, iSCSI, …) that QEMU itself speaks to. Header
/// time: of the look. Text: block nodes, joined by ", " NUL driver NUL address NUL server's comm.
struct StorageLink {
  static constexpr auto kType = static_cast<RecordType>(75);
  std::uint64_t silent_ns;         ///< How long something sent waits for an answer; 0: nothing is known to.
  std::uint64_t unread_bytes;      ///< In the server's socket; UINT64_MAX: not known.
  std::uint64_t unacked_bytes;     ///< TCP: sent or to be sent, and not acknowledged.
  std::uint64_t sent_bytes;        ///< TCP: in all.
  std::uint64_t received_bytes;    ///< TCP: in all.
  std::uint64_t last_sent_ns;      ///< TCP: how long ago data was sent last; UINT64_MAX: not known.
  std::uint64_t last_received_ns;  ///< TCP: … received last.
  std::uint64_t last_ack_ns;       ///< TCP: … the other machine acknowledged anything.
  std::uint64_t guest_quiet_ns;    ///< How long no request of a guest device over it ended; UINT64_MAX.
  std::uint64_t retransmitted;     ///< TCP: segments, in all.
  std::uint32_t retransmits;       ///< TCP: of the segment that waits now.
  std::uint32_t probes;            ///< TCP: probes of the window or the peer without an answer.
  std::uint32_t rtt_us;            ///< TCP: smoothed.
  std::uint32_t tcp_state;         ///< TCP: the kernel's; 1 established.
  std::uint32_t in_flight;         ///< Requests of guest devices over it; UINT32_MAX: not known.
  std::uint32_t state;             ///< A StorageLinkState.
  std::uint32_t flags;             ///< StorageLinkFlag.
  std::uint32_t server_pid;        ///< The server, where it runs on this host; 0: not known.
  std::uint32_t server_state;      ///< The letter of its /proc/PID/stat; 0: not known.
  std::uint32_t socket;            ///< Inode of QEMU's socket.
  std::uint32_t sent_again;        ///< TCP: segments, since the silence began.
  std::uint32_t reserved;
};
static_assert(sizeof(StorageLink) == 128);

}  // namespace vmwhy::trace
