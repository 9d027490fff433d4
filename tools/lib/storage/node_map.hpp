// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Which host file stands under which block node. It has to be known before a pause: asking a QEMU whose
// storage hangs would freeze it.

#include <boost/json/value.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "qmp/discovery.hpp"

namespace vmwhy::storage {

struct NodePath {
  std::string node;
  std::string path;
  bool operator==(const NodePath&) const = default;
};

/// Nodes with a local file or device, from query-named-block-nodes' reply. Nodes above a file (qcow2,
/// blkdebug, throttle) are listed with that file; nodes on the network are left out.
std::vector<NodePath> parse_named_block_nodes(const boost::json::value& reply);

/// The local path in what QEMU calls a file name: plain, "json:{…}", "blkdebug:conf:path"; empty where there
/// is none.
std::string local_path(std::string_view file_name);

/// The descriptor sets of query-fdsets: "/dev/fdset/2" to the descriptor of QEMU that it stands for.
std::vector<std::pair<std::string, std::uint32_t>> parse_fdsets(const boost::json::value& reply);

/// What the command line already says.
std::vector<NodePath> from_command_line(const std::vector<qmp::CommandLineDisk>& disks);

}  // namespace vmwhy::storage
