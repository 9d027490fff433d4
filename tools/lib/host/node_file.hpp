// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The host file or device under a block node, as QEMU's own descriptor shows it. These calls wait for the
// storage: on a hung file system for ever. They are made by the children of the helper process only
// (storage_probe.hpp), never by a thread of a tool.

#include <cstdint>
#include <string>
#include <string_view>

#include "trace/records.hpp"

namespace vmwhy::host {

struct NodeFacts {
  trace::NodeFile file{};
  std::string mount_point, fs_type, mount_source;
  /// The host's block devices under it, top first: "dm-0=254:0 sda=8:0/iscsi"; empty: none that /sys shows.
  std::string devices;
  std::string quotas;  ///< See quotas_of.
};

/// @param path  As QEMU names it, in its own mount namespace; a relative one counts from its working folder.
/// Without a process (pid 0) the facts are the path's.
NodeFacts look_at_node(std::uint32_t pid, const std::string& path, const std::string& proc = "/proc",
                       const std::string& sys = "/sys");

/// Of a file that does not answer: the mount that its path lies on, by the table of mounts alone.
void add_mount(NodeFacts& facts, std::uint32_t pid, const std::string& path,
               const std::string& proc = "/proc");

/// The last `limit` bytes of a file, beginning at a line where it can.
struct Tail {
  std::uint64_t offset = 0;
  std::string text;
  int error = 0;  ///< errno.
};
Tail read_tail(std::uint32_t pid, const std::string& path, std::size_t limit,
               const std::string& proc = "/proc");

}  // namespace vmwhy::host
