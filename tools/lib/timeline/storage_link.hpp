// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// How it stood with a connection of QEMU's own client to a storage server, decoded, and in words.

#include <cstdint>
#include <string>

#include "trace/link_records.hpp"
#include "trace/record.hpp"

namespace vmwhy::timeline {

struct StorageLink {
  std::uint64_t time_ns = 0;
  trace::StorageLink link{};
  std::string nodes;  ///< Joined by ", ".
  std::string driver, address;
  std::string server;  ///< Its comm; empty: not known.

  bool is(trace::StorageLinkState state) const { return link.state == static_cast<std::uint32_t>(state); }
  bool has(trace::StorageLinkFlag flag) const { return (link.flags & flag) != 0; }
  bool connected() const { return is(trace::StorageLinkState::connected); }
  /// The server, or its machine, is silent for as long as the recorder calls it a hang.
  bool hangs() const { return has(trace::kLinkHangs); }
  bool stopped() const { return link.server_state == 'T' || link.server_state == 't'; }
  /// TCP: not even the server's machine answers what was sent last.
  bool unacknowledged() const;
  /// TCP: the way to the server, or back, loses what is sent.
  bool lossy() const;
  /// Since the server fell silent its machine was seen to live: it runs here, or has acknowledged all, or is
  /// asked for room and tells that it has none.
  bool machine_lives() const;
  /// Requests wait for a server to which there is no connection, or none that carries what is sent.
  bool broken() const { return !connected() || unacknowledged() || lossy(); }
  /// Begin of the silence.
  std::uint64_t silent_since_ns() const { return time_ns > link.silent_ns ? time_ns - link.silent_ns : 0; }

  /// "NBD server /run/nbd.sock (nbdkit, pid 812)".
  std::string who() const;
  /// "has not answered for 5 s".
  std::string what() const;
  /// "32796 bytes unread by it, 1 request under way; process 812 is stopped (T)"; may be empty.
  std::string facts() const;
};

StorageLink decode_storage_link(const trace::RecordView& record);

}  // namespace vmwhy::timeline
