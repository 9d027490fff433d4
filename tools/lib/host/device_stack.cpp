// SPDX-License-Identifier: BSD-2-Clause
#include "host/device_stack.hpp"

#include <dirent.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <functional>
#include <memory>

#include "core/text.hpp"
#include "host/proc_file.hpp"

namespace vmwhy::host {
namespace {

/// Deeper than any real stack; /sys of a broken kernel, or a made-up one, may go in circles.
constexpr int kDepth = 24;
constexpr std::size_t kMembers = 256;

std::string read_word(const std::string& path) {
  const std::string text = read_or_empty(path, 4096);
  return std::string(trim(text));
}

bool is_there(const std::string& path) {
  return ::access(path.c_str(), F_OK) == 0;
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(folder.c_str()), &::closedir);
  if (!dir) return names;
  while (const dirent* entry = ::readdir(dir.get()))
    if (entry->d_name[0] != '.' && names.size() < kMembers) names.emplace_back(entry->d_name);
  std::sort(names.begin(), names.end());
  return names;
}

/// Mount points and sources have blanks and the like as \040.
std::string unescape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto octal = [&](std::size_t at) { return text[at] >= '0' && text[at] <= '7'; };
    if (text[i] == '\\' && i + 3 < text.size() && octal(i + 1) && octal(i + 2) && octal(i + 3)) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string real_path(const std::string& path) {
  const std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), &::free);
  return real ? std::string(real.get()) : std::string();
}

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

/// By device mapper's uuid: its maker's prefix, and lvm2's suffix for the inner devices of a pool.
std::string dm_kind(std::string_view uuid) {
  if (starts_with(uuid, "CRYPT-")) return "dm-crypt";
  if (starts_with(uuid, "mpath-")) return "multipath";
  if (starts_with(uuid, "part")) return "partition";
  if (!starts_with(uuid, "LVM-")) return "dm";
  return uuid.ends_with("-tpool") || uuid.ends_with("-pool") ? "thin-pool" : "lv";
}

/// How a device that another machine has is reached; "" of one that is of this machine, as far as /sys tells.
std::string transport_of(std::string_view name, const std::string& folder) {
  for (const std::string_view kind : {"nbd", "rbd", "drbd"})
    if (starts_with(name, kind)) return std::string(kind);
  if (folder.find("/nvme-fabrics/") != std::string::npos) return "nvme-of";
  return folder.find("/session") != std::string::npos ? "iscsi" : "";
}

/// By what name the kernel log tells of that connection, where it is not the device's: "session1".
std::string session_of(std::string_view transport, std::string_view folder) {
  if (transport != "iscsi") return {};
  folder.remove_prefix(folder.find("/session") + 1);
  return std::string(folder.substr(0, folder.find('/')));
}

}  // namespace

std::vector<MountLine> parse_mounts(std::string_view mountinfo) {
  std::vector<MountLine> out;
  for (const std::string_view line : split(mountinfo, '\n')) {
    const auto words = split(line, ' ');
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (words.size() < 6 || words.end() - dash < 3) continue;
    const auto device = split(words[2], ':');
    if (device.size() != 2) continue;
    MountLine mount;
    mount.id = static_cast<std::uint32_t>(parse_u64(words[0]).value_or(0));
    mount.major = static_cast<std::uint32_t>(parse_u64(device[0]).value_or(0));
    mount.minor = static_cast<std::uint32_t>(parse_u64(device[1]).value_or(0));
    mount.root = unescape(words[3]);
    mount.point = unescape(words[4]);
    mount.type = std::string(dash[1]);
    mount.source = unescape(dash[2]);
    mount.options = std::string(words[5]) + (words.end() - dash > 3 ? "," + std::string(dash[3]) : "");
    out.push_back(std::move(mount));
  }
  return out;
}

bool MountLine::read_only() const {
  const auto words = split(options, ',');
  return std::find(words.begin(), words.end(), "ro") != words.end();
}

namespace {

bool holds(const MountLine& mount, std::string_view path) {
  return mount.point == "/" || path == mount.point ||
         (starts_with(path, mount.point) && path[mount.point.size()] == '/');
}

}  // namespace

const MountLine* mount_of(const std::vector<MountLine>& mounts, std::string_view path) {
  const MountLine* found = nullptr;
  // Later lines lie over earlier ones at the same point.
  for (const MountLine& mount : mounts)
    if (holds(mount, path) && (found == nullptr || mount.point.size() >= found->point.size())) found = &mount;
  return found;
}

const MountLine* mount_of(const std::vector<MountLine>& mounts, std::string_view path, std::uint32_t major,
                          std::uint32_t minor) {
  const MountLine* found = nullptr;
  bool held = false;
  for (const MountLine& mount : mounts) {
    if (mount.major != major || mount.minor != minor) continue;
    const bool holds_it = holds(mount, path);
    if (found != nullptr && (!holds_it || (held && mount.point.size() < found->point.size()))) continue;
    found = &mount;
    held = holds_it;
  }
  return found;
}

std::string mount_option(std::string_view options, std::string_view key) {
  for (const std::string_view option : split(options, ','))
    if (starts_with(option, key) && option.size() > key.size() && option[key.size()] == '=')
      return unescape(option.substr(key.size() + 1));
  return {};
}

DeviceStack::DeviceStack(std::string sys, const std::string& mountinfo)
    : sys_(std::move(sys)),
      mounts_(parse_mounts(mountinfo.empty() ? read_or_empty("/proc/self/mountinfo", 4u << 20) : mountinfo)) {
}

Item DeviceStack::device(std::uint32_t major, std::uint32_t minor) const {
  const std::string number = std::to_string(major) + ":" + std::to_string(minor);
  const std::string folder = real_path(sys_ + "/dev/block/" + number);
  if (folder.empty()) {
    Item gone{"unknown", number, "", {{"major", major}, {"minor", minor}}, "", {}};
    gone.note = "the kernel has no such block device now";
    return gone;
  }
  return device_at(folder, 0);
}

Item DeviceStack::device_at(const std::string& folder, int depth) const {
  Item item;
  item.name = folder.substr(folder.rfind('/') + 1);
  const std::string dev = read_word(folder + "/dev");
  const auto number = split(dev, ':');
  if (number.size() == 2) {
    item.facts["major"] = parse_u64(number[0]).value_or(0);
    item.facts["minor"] = parse_u64(number[1]).value_or(0);
  }
  const std::uint64_t bytes = parse_u64(read_word(folder + "/size")).value_or(0) * 512;
  item.facts["size_bytes"] = bytes;
  item.detail = human_bytes(bytes);
  if (bytes == 0) item.note = "it has size 0 now";
  if (const std::string transport = transport_of(item.name, folder); !transport.empty()) {
    item.facts["transport"] = transport;
    item.detail += ", by " + transport;
    if (const std::string session = session_of(transport, folder); !session.empty())
      item.facts["session"] = session;
  }
  if (read_word(folder + "/ro") == "1") item.facts["read_only"] = true, item.detail += ", read-only";
  item.kind = "disk";
  const std::string uuid = read_word(folder + "/dm/uuid"), dm = read_word(folder + "/dm/name");
  if (is_there(folder + "/partition")) {
    item.kind = "partition";
    item.facts["start_sector"] = parse_u64(read_word(folder + "/start")).value_or(0);
  } else if (is_there(folder + "/loop")) {
    item.kind = "loop";
  } else if (is_there(folder + "/dm")) {
    item.kind = dm_kind(uuid);
    item.facts["dm_name"] = dm;
    item.facts["dm_uuid"] = uuid;
    item.detail += ", " + dm;
    if (read_word(folder + "/dm/suspended") == "1") item.note = "suspended: requests wait there";
  } else if (is_there(folder + "/md")) {
    item.kind = "md";
    const std::string level = read_word(folder + "/md/level"), state = read_word(folder + "/md/array_state");
    item.facts["level"] = level;
    item.facts["state"] = state;
    item.detail += ", " + level + ", " + state;
    const std::string degraded = read_word(folder + "/md/degraded");
    if (!degraded.empty() && degraded != "0") item.note = degraded + " members are missing";
  } else if (starts_with(item.name, "nbd")) {
    item.kind = "nbd";
    if (!is_there(folder + "/pid")) item.note = "no server is connected";
  } else {
    const std::string vendor = read_word(folder + "/device/vendor"),
                      model = read_word(folder + "/device/model");
    if (!model.empty())
      item.facts["model"] = model, item.detail += ", " + vendor + (vendor.empty() ? "" : " ") + model;
    const std::string state = read_word(folder + "/device/state");
    if (!state.empty()) item.facts["state"] = state;
    if (!state.empty() && state != "running" && state != "live") item.note = "its state is " + state;
  }
  if (depth >= kDepth)
    item.note = "the stack goes deeper than this looks";
  else
    add_below(item, folder, depth);
  return item;
}

void DeviceStack::add_below(Item& item, const std::string& folder, int depth) const {
  if (item.kind == "partition" && !is_there(folder + "/dm")) {
    item.below.push_back(device_at(folder.substr(0, folder.rfind('/')), depth + 1));
    return;
  }
  if (item.kind == "loop") {
    std::string backing = read_or_empty(folder + "/loop/backing_file", 4096);
    if (backing.ends_with('\n')) backing.pop_back();
    return add_backing_file(item, backing, depth);
  }
  for (const std::string& slave : names_in(folder + "/slaves")) {
    const std::string below = real_path(fmt::format("{}/slaves/{}", folder, slave));
    if (below.empty()) {
      item.below.push_back({"unknown", slave, "", {}, "it went away while it was looked at", {}});
      continue;
    }
    Item found = device_at(below, depth + 1);
    if (item.kind == "md") {
      const std::string state = read_word(fmt::format("{}/md/dev-{}/state", folder, slave));
      found.facts["member_state"] = state;
      if (!state.empty()) found.detail += ", " + state;
      if (state.find("faulty") != std::string::npos) found.note = "faulty";
    }
    if (item.kind == "lv" && found.kind == "thin-pool") item.kind = "thin-volume";
    item.below.push_back(std::move(found));
  }
}

void DeviceStack::add_backing_file(Item& item, const std::string& path, int depth) const {
  if (path.empty()) {
    item.note = "nothing backs it: it was cleared";
    return;
  }
  Item file{"file", path, "", {{"path", path}}, "", {}};
  constexpr std::string_view kDeleted = " (deleted)";
  if (path.ends_with(kDeleted)) {
    file.note = "deleted; its space is taken until the loop device is cleared";
    file.name = path.substr(0, path.size() - kDeleted.size());
  }
  const MountLine* mount = mount_of(mounts_, file.name);
  if (mount == nullptr)
    file.note = "no mount of this mount namespace holds it";
  else
    file.below.push_back(file_system_at(*mount, depth + 1));
  item.below.push_back(std::move(file));
}

Item DeviceStack::file_system(const MountLine& mount) const {
  return file_system_at(mount, 0);
}

Item DeviceStack::file_system_at(const MountLine& mount, int depth) const {
  Item item{"fs",
            mount.type,
            "on " + mount.point,
            {{"fs_type", mount.type}, {"mount", mount.point}, {"source", mount.source}},
            "",
            {}};
  if (mount.root != "/") {
    item.facts["root"] = mount.root;
    item.detail += ", bind mount of " + mount.root;
  }
  if (depth >= kDepth) {
    item.note = "the stack goes deeper than this looks";
    return item;
  }
  if (mount.type == "overlay") {
    const std::string upper = mount_option(mount.options, "upperdir");
    const MountLine* below = upper.empty() ? nullptr : mount_of(mounts_, upper);
    item.facts["upper"] = upper;
    item.detail += upper.empty() ? ", read-only" : ", writes go to " + upper;
    if (below != nullptr && below->type != "overlay")
      item.below.push_back(file_system_at(*below, depth + 1));
    else
      item.note = "where its upper folder lies is not known here";
    return item;
  }
  if (mount.major != 0) {
    const std::string folder =
        real_path(sys_ + "/dev/block/" + std::to_string(mount.major) + ":" + std::to_string(mount.minor));
    item.below.push_back(folder.empty() ? device(mount.major, mount.minor) : device_at(folder, depth + 1));
    return item;
  }
  // btrfs and its like show a number of their own, and the device as the source.
  const bool on_device = starts_with(mount.source, "/dev/") && mount.source.size() > 5;
  const std::string node = on_device ? real_path(mount.source) : std::string();
  const std::string base = (node.empty() ? mount.source : node)
                               .substr(on_device ? (node.empty() ? mount.source : node).rfind('/') + 1 : 0);
  const std::string folder = on_device ? real_path(sys_ + "/class/block/" + base) : std::string();
  if (!folder.empty()) {
    item.below.push_back(device_at(folder, depth + 1));
    return item;
  }
  if (mount.type == "tmpfs" || mount.type == "ramfs" || mount.type == "devtmpfs")
    item.detail += ", in memory";
  else if (starts_with(mount.type, "nfs") || mount.type == "cifs" || mount.type == "smb3" ||
           mount.type == "ceph" || mount.type == "9p")
    item.below.push_back({"remote", mount.source, mount.type, {}, "", {}});
  else if (starts_with(mount.type, "fuse"))
    item.below.push_back({"remote", mount.source, "answered by a process (FUSE)", {}, "", {}});
  else
    item.note = "what it lies on is not shown by /proc and /sys";
  return item;
}

std::string DeviceStack::devices_of(const Item& item) {
  std::vector<std::string> found;
  const std::function<void(const Item&)> add = [&](const Item& at) {
    const auto* major = at.facts.if_contains("major");
    const auto* minor = at.facts.if_contains("minor");
    if (major != nullptr && minor != nullptr && at.kind != "unknown") {
      std::string device = fmt::format("{}={}:{}", at.name, major->to_number<std::uint32_t>(),
                                       minor->to_number<std::uint32_t>());
      for (const char* const key : {"transport", "session"})
        if (const auto* text = at.facts.if_contains(key)) device += "/" + std::string(text->as_string());
      if (std::find(found.begin(), found.end(), device) == found.end()) found.push_back(std::move(device));
    }
    for (const Item& below : at.below) add(below);
  };
  add(item);
  return fmt::format("{}", fmt::join(found, " "));
}

}  // namespace vmwhy::host
