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
};

/// @param path  As QEMU names it, in its own mount namespace; a relative one counts from its working folder.
/// Without a process (pid 0) the facts are the path's.
NodeFacts look_at_node(std::uint32_t pid, const std::string& path, const std::string& proc = "/proc",
                       const std::string& sys = "/sys");

/// The mount that holds `path`: its longest mount point in a mountinfo text.
struct Mount {
  std::string point, type, source;
  bool read_only = false;
};
Mount find_mount(std::string_view mountinfo, std::string_view path);

/// The mount with this device number ("8:1"), the one whose point is the longest prefix of `path` where
/// several have it; an empty point where none has.
Mount find_mount(std::string_view mountinfo, std::string_view path, std::uint32_t major, std::uint32_t minor);

/// The last `limit` bytes of a file, beginning at a line where it can.
struct Tail {
  std::uint64_t offset = 0;
  std::string text;
  int error = 0;  ///< errno.
};
Tail read_tail(std::uint32_t pid, const std::string& path, std::size_t limit,
               const std::string& proc = "/proc");

}  // namespace vmwhy::host
