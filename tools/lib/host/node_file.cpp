// SPDX-License-Identifier: BSD-2-Clause
#include "host/node_file.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <vector>

#include "core/text.hpp"
#include "core/unique_fd.hpp"
#include "host/device_stack.hpp"
#include "host/proc_file.hpp"
#include "host/quota.hpp"

namespace vmwhy::host {
namespace {

constexpr std::string_view kDeleted = " (deleted)";

std::string read_link(const std::string& path) {
  std::array<char, 4096> buffer;
  const ssize_t n = ::readlink(path.c_str(), buffer.data(), buffer.size());
  return n < 0 ? std::string() : std::string(buffer.data(), static_cast<std::size_t>(n));
}

std::string base_of(std::uint32_t pid, const std::string& proc) {
  return pid == 0 ? std::string() : proc + "/" + std::to_string(pid);
}

/// "" with errno where the path is relative and the working folder cannot be seen.
std::string absolute(std::uint32_t pid, const std::string& path, const std::string& proc) {
  if (path.starts_with('/') || pid == 0) return path;
  std::string_view rest = path;
  while (rest.starts_with("./")) rest.remove_prefix(2);
  const std::string folder = read_link(base_of(pid, proc) + "/cwd");
  return folder.empty() ? std::string() : folder + "/" + std::string(rest);
}

/// Opens `path` as the process sees it: below its root, symbolic links resolved there and never out of it.
/// Without the right to look through /proc/PID/root the own namespace is all there is.
UniqueFd open_named(std::uint32_t pid, const std::string& path, int flags, const std::string& proc) {
  if (pid != 0) {
    const UniqueFd root(::open((base_of(pid, proc) + "/root").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (root) {
      open_how how{};
      how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC);
      how.resolve = RESOLVE_IN_ROOT;
      const long fd = ::syscall(SYS_openat2, root.get(), path.c_str(), &how, sizeof(how));
      if (fd >= 0 || errno != ENOSYS) return UniqueFd(static_cast<int>(fd));
    }
  }
  return UniqueFd(::open(path.c_str(), flags | O_CLOEXEC));
}

struct Descriptor {
  int number = -1;  ///< -1: none.
  bool deleted = false;
};

std::uint64_t identity(const struct stat& s) {
  return S_ISBLK(s.st_mode) || S_ISCHR(s.st_mode) ? s.st_rdev : s.st_dev;
}

bool same_thing(const struct stat& a, const struct stat& b) {
  if ((a.st_mode & S_IFMT) != (b.st_mode & S_IFMT)) return false;
  // Device nodes may be remade with another inode: what counts is the device they name.
  if (S_ISBLK(a.st_mode) || S_ISCHR(a.st_mode)) return a.st_rdev == b.st_rdev;
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/// Whether `path` leads to a block device by a link that may have been pointed elsewhere since it was opened,
/// as those of /dev/disk and /dev/mapper are.
bool leads_to_device(std::uint32_t pid, const std::string& path, const struct stat* named,
                     const std::string& proc) {
  if (named) return S_ISBLK(named->st_mode);
  struct stat link;
  return ::lstat((base_of(pid, proc) + "/root" + path).c_str(), &link) == 0 && S_ISLNK(link.st_mode);
}

/// What tells one file from another, without a question to its file system: the process has other files open
/// too, and one that hangs must not make this one look hung.
bool identify(const std::string& path, struct stat& out) {
  struct statx fact;
  if (::statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &fact) != 0) return false;
  out = {};
  out.st_mode = fact.stx_mode;
  out.st_ino = fact.stx_ino;
  out.st_dev = makedev(fact.stx_dev_major, fact.stx_dev_minor);
  out.st_rdev = makedev(fact.stx_rdev_major, fact.stx_rdev_minor);
  return true;
}

/// The descriptor whose link is `path`, living or deleted; by its identity where the path is a symbolic link;
/// and where that link leads to another device by now, the only block device that the process has open.
Descriptor find_descriptor(std::uint32_t pid, const std::string& path, const struct stat* named,
                           const std::string& proc) {
  const std::string folder = base_of(pid, proc) + "/fd";
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(folder.c_str()), &::closedir);
  if (!dir) return {};
  Descriptor by_deleted, by_identity, only_device;
  dev_t device = 0;
  bool several_devices = false;
  std::vector<int> others;
  while (const dirent* entry = ::readdir(dir.get())) {
    const auto number = parse_u64(entry->d_name);
    if (!number) continue;
    const Descriptor candidate{static_cast<int>(*number), false};
    const std::string link = read_link(folder + "/" + entry->d_name);
    if (link == path) return candidate;
    if (link == path + std::string(kDeleted)) by_deleted = {candidate.number, true};
    if (link.starts_with('/')) others.push_back(candidate.number);
  }
  if (by_deleted.number >= 0) return by_deleted;
  for (const int number : others) {
    const Descriptor candidate{number, false};
    struct stat fact;
    if (!identify(folder + "/" + std::to_string(number), fact)) continue;
    if (named && same_thing(fact, *named)) {
      by_identity = candidate;
      break;
    }
    if (!S_ISBLK(fact.st_mode)) continue;
    several_devices = several_devices || (only_device.number >= 0 && fact.st_rdev != device);
    only_device = candidate;
    device = fact.st_rdev;
  }
  if (by_identity.number >= 0 || several_devices || !leads_to_device(pid, path, named, proc))
    return by_identity;
  return only_device;
}

void add_device_size(trace::NodeFile& file, const std::string& sys) {
  const auto device = static_cast<dev_t>(file.rdev);
  const std::string folder =
      sys + "/dev/block/" + std::to_string(major(device)) + ":" + std::to_string(minor(device));
  const auto size = read_small_file(folder + "/size", 64);
  if (!size) {
    file.flags |= trace::kNodeSysMissing;
    return;
  }
  file.size_bytes = parse_u64(trim(*size)).value_or(0) * 512;
}

void add_file_system(NodeFacts& out, const std::string& target) {
  struct statfs fs;
  if (::statfs(target.c_str(), &fs) != 0) {
    out.file.flags |= trace::kNodeStatFailed;
    out.file.error = errno;
    return;
  }
  const auto block = static_cast<std::uint64_t>(fs.f_frsize > 0 ? fs.f_frsize : fs.f_bsize);
  out.file.fs_magic = static_cast<std::uint32_t>(fs.f_type);
  out.file.fs_size_bytes = fs.f_blocks * block;
  out.file.fs_free_bytes = fs.f_bfree * block;
  out.file.fs_avail_bytes = fs.f_bavail * block;
  out.file.fs_files = fs.f_files;
  out.file.fs_files_free = fs.f_ffree;
  constexpr auto kReadOnly = 1;  // ST_RDONLY
  if (fs.f_flags & kReadOnly) out.file.flags |= trace::kNodeReadOnlyFs;
}

}  // namespace

NodeFacts look_at_node(std::uint32_t pid, const std::string& path, const std::string& proc,
                       const std::string& sys) {
  NodeFacts out;
  trace::NodeFile& file = out.file;
  std::string full = absolute(pid, path, proc);
  if (full.empty()) {
    // Some other folder's file of that name would be a stranger.
    file.error = path.empty() ? ENOENT : errno;
    file.flags |= trace::kNodeNoFd | trace::kNodeStatFailed;
    return out;
  }
  if (pid != 0 && full.starts_with(base_of(pid, proc) + "/fd/")) {
    // A descriptor that was handed to QEMU: what it was opened as.
    full = read_link(full);
    if (full.ends_with(kDeleted)) full.resize(full.size() - kDeleted.size());
  }
  struct stat named;
  const UniqueFd by_path = open_named(pid, full, O_PATH, proc);
  const bool path_there = by_path && ::fstat(by_path.get(), &named) == 0;
  const int path_error = path_there ? 0 : errno;
  const Descriptor descriptor =
      pid == 0 ? Descriptor{} : find_descriptor(pid, full, path_there ? &named : nullptr, proc);
  std::string target = "/proc/self/fd/" + std::to_string(by_path.get());
  struct stat fact;
  if (descriptor.number >= 0) {
    file.fd = static_cast<std::uint32_t>(descriptor.number);
    target = base_of(pid, proc) + "/fd/" + std::to_string(descriptor.number);
    if (descriptor.deleted) file.flags |= trace::kNodeDeleted;
  } else {
    file.flags |= trace::kNodeNoFd;
  }
  if (::stat(target.c_str(), &fact) != 0) {
    file.flags |= trace::kNodeStatFailed;
    file.error = descriptor.number >= 0 ? errno : path_error;
    if (!path_there) file.flags |= trace::kNodePathMissing;
    return out;
  }
  file.dev = fact.st_dev;
  file.ino = fact.st_ino;
  file.mode = fact.st_mode;
  file.owner_uid = fact.st_uid;
  file.allocated_bytes = static_cast<std::uint64_t>(fact.st_blocks) * 512;
  if (S_ISBLK(fact.st_mode) || S_ISCHR(fact.st_mode)) file.rdev = fact.st_rdev;
  if (fact.st_nlink == 0) file.flags |= trace::kNodeDeleted;
  if (!path_there) {
    if (path_error == ENOENT || path_error == ENOTDIR) file.flags |= trace::kNodePathMissing;
  } else {
    file.path_rdev = identity(named);
    if (!same_thing(fact, named)) file.flags |= trace::kNodePathDiffers;
  }
  const DeviceStack stack(sys, read_or_empty(proc + "/self/mountinfo", 4u << 20));
  if (S_ISBLK(fact.st_mode)) {
    add_device_size(file, sys);
    out.devices = DeviceStack::devices_of(stack.device(major(fact.st_rdev), minor(fact.st_rdev)));
    return out;
  }
  file.size_bytes = static_cast<std::uint64_t>(fact.st_size);
  add_file_system(out, target);
  if (S_ISREG(fact.st_mode)) out.quotas = quotas_of(target, fact.st_uid, fact.st_gid);
  const auto mounts =
      parse_mounts(read_or_empty((pid == 0 ? proc + "/self" : base_of(pid, proc)) + "/mountinfo", 4u << 20));
  const MountLine* mount = mount_of(mounts, full, major(fact.st_dev), minor(fact.st_dev));
  // btrfs and overlayfs show another device number to stat than in mountinfo.
  if (mount == nullptr) mount = mount_of(mounts, full);
  if (mount == nullptr) return out;
  out.mount_point = mount->point;
  out.fs_type = mount->type;
  out.mount_source = mount->source;
  if (mount->read_only()) file.flags |= trace::kNodeReadOnlyFs;
  out.devices = DeviceStack::devices_of(stack.file_system(*mount));
  return out;
}

void add_mount(NodeFacts& facts, std::uint32_t pid, const std::string& path, const std::string& proc) {
  if (!path.starts_with('/') || path.starts_with("/proc/") || path.starts_with("/dev/")) return;
  const auto mounts =
      parse_mounts(read_or_empty((pid == 0 ? proc + "/self" : base_of(pid, proc)) + "/mountinfo", 4u << 20));
  const MountLine* mount = mount_of(mounts, path);
  if (mount == nullptr) return;
  facts.mount_point = mount->point;
  facts.fs_type = mount->type;
  facts.mount_source = mount->source;
}

Tail read_tail(std::uint32_t pid, const std::string& path, std::size_t limit, const std::string& proc) {
  Tail out;
  // The process may be gone, and its root with it.
  const bool alive = pid != 0 && ::access(base_of(pid, proc).c_str(), F_OK) == 0;
  const UniqueFd fd = open_named(alive ? pid : 0, path, O_RDONLY | O_NOCTTY | O_NONBLOCK, proc);
  struct stat fact;
  if (!fd || ::fstat(fd.get(), &fact) != 0) {
    out.error = errno;
    return out;
  }
  if (!S_ISREG(fact.st_mode)) {
    out.error = EINVAL;
    return out;
  }
  const auto size = static_cast<std::uint64_t>(fact.st_size);
  out.offset = size > limit ? size - limit : 0;
  out.text.resize(static_cast<std::size_t>(size - out.offset));
  const ssize_t n = ::pread(fd.get(), out.text.data(), out.text.size(), static_cast<off_t>(out.offset));
  if (n < 0) out.error = errno;
  out.text.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
  if (out.offset > 0) {
    if (const auto newline = out.text.find('\n');
        newline != std::string::npos && newline + 1 < out.text.size()) {
      out.text.erase(0, newline + 1);
      out.offset += newline + 1;
    }
  }
  return out;
}

}  // namespace vmwhy::host
