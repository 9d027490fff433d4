// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What the kernel tells of the TCP sockets of this network namespace (sock_diag, as ss -ti): queues, time
// since data went and came, retransmits. Asks the kernel only, and sends nothing on any of them.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace vmwhy::host {

struct TcpEnd {
  std::array<std::uint8_t, 16> address{};  ///< IPv4 as ::ffff:a.b.c.d.
  std::uint16_t port = 0;
  bool operator==(const TcpEnd&) const = default;
};

struct TcpSocket {
  std::uint32_t inode = 0;  ///< 0: no process holds it any more.
  bool v6 = false;
  std::uint32_t state = 0;  ///< 1 established, …: the kernel's.
  TcpEnd local, remote;
  std::uint64_t unread_bytes = 0;   ///< Received, and not read by its process.
  std::uint64_t unacked_bytes = 0;  ///< Written by its process, and not acknowledged.
  std::uint32_t retransmits = 0;    ///< Of the segment that waits for its acknowledgement.
  std::uint32_t probes = 0;         ///< Of the window or the peer, without an answer.
  bool window_closed = false;       ///< The other side takes no more: its kernel is probed for room.
  bool has_info = false;            ///< The following are known.
  std::uint64_t sent_bytes = 0, received_bytes = 0, retransmitted = 0;
  std::uint64_t last_sent_ns = 0, last_received_ns = 0, last_ack_ns = 0;  ///< How long ago.
  std::uint32_t rtt_us = 0;

  /// False while the other side has not answered to the first segment: nothing was ever sent over it.
  bool came_about() const { return state != 2 && state != 3; }
};

/// All that are connected, or were until just now; empty if they are not to be had.
std::vector<TcpSocket> dump_tcp_sockets();
/// The same socket now, by its two ends.
std::optional<TcpSocket> find_tcp_socket(const TcpSocket& known);
/// The socket of the other end, where it is in this network namespace too.
std::optional<TcpSocket> find_tcp_peer(const TcpSocket& known);

/// A numeric address; nothing for a name.
std::optional<std::array<std::uint8_t, 16>> parse_ip(const std::string& text);

}  // namespace vmwhy::host
