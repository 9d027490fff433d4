// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The host's block devices below a device or a file system, from /sys and mountinfo alone: no device is
// opened and no file system is asked, so nothing here can hang. Any thread.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "host/item.hpp"

namespace vmwhy::host {

/// One line of mountinfo.
struct MountLine {
  std::uint32_t major = 0, minor = 0;
  std::string root;  ///< What of the file system is mounted there; not "/" for a bind mount.
  std::string point, type, source, options;
  std::uint32_t id = 0;
  /// The mount, or the file system itself.
  bool read_only() const;
};
/// Lines that are none are left out.
std::vector<MountLine> parse_mounts(std::string_view mountinfo);
/// The mount that holds `path`: the longest point, of several at one point the last; null: none.
const MountLine* mount_of(const std::vector<MountLine>& mounts, std::string_view path);
/// The one with this device number: where several have it the one that holds `path`; null: none has.
const MountLine* mount_of(const std::vector<MountLine>& mounts, std::string_view path, std::uint32_t major,
                          std::uint32_t minor);
/// The value of "key=value" in mount options; empty: none.
std::string mount_option(std::string_view options, std::string_view key);

class DeviceStack {
 public:
  /// @param mountinfo  Of the mount namespace that loop devices and overlays name their files in: the host's.
  explicit DeviceStack(std::string sys = "/sys", const std::string& mountinfo = {});

  /// A device with all below it. One that /sys does not have says so in its note.
  Item device(std::uint32_t major, std::uint32_t minor) const;
  /// A mounted file system with what it lies on.
  Item file_system(const MountLine& mount) const;
  /// Every block device of the tree once, top first: "dm-0=254:0 sda=8:0/iscsi". What another machine
  /// has is marked by how it is reached: "nbd", "rbd", "drbd", "iscsi", "nvme-of".
  static std::string devices_of(const Item& item);

 private:
  Item device_at(const std::string& folder, int depth) const;
  void add_below(Item& item, const std::string& folder, int depth) const;
  Item file_system_at(const MountLine& mount, int depth) const;
  void add_backing_file(Item& item, const std::string& path, int depth) const;

  std::string sys_;
  std::vector<MountLine> mounts_;
};

}  // namespace vmwhy::host
