// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Which server stands under a block node that QEMU's own client reaches over a socket (NBD, iSCSI, SSH, HTTP,
// NFS), from what QEMU calls the node's file. Text of a stranger: bounded, and what cannot be read is left
// out.

#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qmp/discovery.hpp"

namespace vmwhy::storage {

struct ServerAddress {
  std::string driver;      ///< "nbd", "iscsi", …
  std::string path;        ///< Of a Unix socket; empty: TCP.
  std::string host;        ///< Name or number, without brackets.
  std::uint16_t port = 0;  ///< Of TCP.

  bool operator==(const ServerAddress&) const = default;
  /// "/run/nbd.sock", "192.0.2.1:10809", "[2001:db8::1]:10809".
  std::string to_string() const;
};

/// A plain name ("nbd://host/export", "nbd:unix:/path") or a description ("json:{…}"). Nothing where no
/// server, or one that is not spoken to over one known socket (RBD, Gluster), is under it.
std::optional<ServerAddress> server_of(std::string_view file_name);

struct ServerNode {
  std::string node;
  ServerAddress address;
  bool is_client = false;  ///< The client itself: not a node (raw, qcow2) above it.
  bool operator==(const ServerNode&) const = default;
};

/// From the reply to query-named-block-nodes: nodes above the client's (raw, qcow2) are listed too.
std::vector<ServerNode> parse_server_nodes(const boost::json::value& named_block_nodes);
/// What the command line already says.
std::vector<ServerNode> server_nodes(const std::vector<qmp::CommandLineDisk>& disks);

}  // namespace vmwhy::storage
