// SPDX-License-Identifier: BSD-2-Clause
// Requests that failed for want of space, or seemed to. QEMU says `nospace: true` for ENOSPC whatever made
// it: a full file system, but also a device that died or was replaced under its descriptor, where the remedy
// is the opposite. So the descriptor's identity is looked at first, and free space only where a file system
// is.
#include <fmt/format.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>

#include "causes/rules/rules.hpp"
#include "causes/rules/storage_common.hpp"
#include "core/text.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {
namespace {

bool unreachable(const Case& c) {
  return c.storage.file != nullptr && (c.storage.file->file.flags & trace::kNodeUnreachable) != 0;
}

const timeline::KernelLine* space_line(const Case& c) {
  for (const timeline::KernelLine* line : device_lines(c))
    if (contains(line->text, "critical space allocation error")) return line;
  return nullptr;
}

/// ENOSPC, a file, room on its file system: what remains is a quota, a short write, room that came back, or
/// room that the file system keeps for itself.
bool space_unexplained(const Case& c) {
  const timeline::NodeFile* file = c.storage.file;
  return c.is_storage_error() && c.storage.nospace && file != nullptr && !is_block_device(*file) &&
         file->file.fs_size_bytes != 0 && !file_system_full(c) && !unreachable(c);
}

/// What is left may be what the file system needs for its own blocks, or lie in pieces too small.
bool nearly_full(const Case& c) {
  constexpr std::uint64_t kMost = 256u << 20;
  const timeline::NodeFile& file = *c.storage.file;
  return free_for_qemu(c, file) < std::min(kMost, file.file.fs_size_bytes / 50);
}

/// XFS answers a project quota with ENOSPC, and servers answer as the file system behind them; the others say
/// EDQUOT.
bool quota_may_say_enospc(const timeline::NodeFile& file) {
  for (const std::string_view type : {"ext2", "ext3", "ext4", "btrfs", "f2fs", "tmpfs"})
    if (file.fs_type == type) return false;
  return true;
}

bool on_fuse(const timeline::NodeFile& file) {
  return file.fs_type.starts_with("fuse");
}

/// ENOSPC with room: from the file system itself, as far as can be told.
bool full_in_spite_of_room(const Case& c) {
  return space_unexplained(c) && c.storage.short_write == nullptr && !on_fuse(*c.storage.file) &&
         (nearly_full(c) || !quota_may_say_enospc(*c.storage.file));
}

Finding full_in_spite_of_room_finding(const Case& c) {
  const timeline::NodeFile& file = *c.storage.file;
  Finding finding = storage_finding(c, Confidence::likely);
  finding.details["exhausted"] = "unknown";
  finding.summary = fmt::format("{} failed with ENOSPC, although {} shows as free there now", request_text(c),
                                human_bytes(free_for_qemu(c, file)));
  std::string why = "what it keeps for its own blocks, and room that came back since, show as free";
  if (c.storage.request == nullptr) why += "; a short write looks the same without probes";
  if (quota_may_say_enospc(file)) why += "; a project quota gives ENOSPC too";
  finding.not_proved.push_back({"that it had no room", std::move(why)});
  finding.remedy.push_back(
      fmt::format("free space on {} (or enlarge it), then: {}", file.mount, qmp_call(c, "cont")));
  if (file.fs_type == "btrfs")
    finding.remedy.push_back(
        fmt::format("see whether its metadata is what ran out: btrfs filesystem usage {}", file.mount));
  return finding;
}

}  // namespace

Opinion judge_storage_full(const Case& c) {
  if (!c.is_storage_error()) return nothing();
  const StorageFacts& s = c.storage;
  if (s.file == nullptr) {
    if (!s.nospace) return nothing();
    Finding finding = storage_finding(c, Confidence::likely);
    finding.summary =
        fmt::format("{} failed with ENOSPC: its file system or device is full", request_text(c));
    finding.details["exhausted"] = "unknown";
    if (const std::string_view driver = s.network_driver(); !driver.empty()) {
      finding.summary =
          fmt::format("{} failed with ENOSPC: what the {} server stores to is full", request_text(c), driver);
      finding.details["transport"] = driver;
      finding.not_proved.push_back({"what is full, and where", "the server's side cannot be seen from here"});
      finding.remedy.push_back("make room where the server stores, then: " + qmp_call(c, "cont"));
      return found(std::move(finding));
    }
    finding.not_proved.push_back({"that there is no space left",
                                  "the host's side of the node was not seen; a "
                                  "device that died gives the same error"});
    finding.remedy.push_back(
        "look at the node's file: whether its device still has a size, then whether its file "
        "system is full; only then free space and cont");
    return found(std::move(finding));
  }
  if (unreachable(c)) return nothing();
  if (is_block_device(*s.file))
    return against(
        "storage-full",
        fmt::format("{} is a block device: QEMU's requests meet no file system there", s.file->path));
  const bool no_inodes = s.file->file.fs_files != 0 && s.file->file.fs_files_free == 0;
  if (!file_system_full(c) && !(no_inodes && s.nospace)) {
    if (full_in_spite_of_room(c)) return found(full_in_spite_of_room_finding(c));
    return against("storage-full", fmt::format("{} {} has {} free", s.file->fs_type, s.file->mount,
                                               human_bytes(free_for_qemu(c, *s.file))));
  }
  if (s.error != nullptr && !s.nospace && s.nospace_said)
    return against("storage-full", "QEMU says that the error was not ENOSPC");
  if (s.error_number() != 0 && s.error_number() != ENOSPC)
    return against("storage-full", fmt::format("the kernel answered {} with {}", s.request->call,
                                               errno_name(s.error_number())));

  const bool by_fd = (s.file->file.flags & trace::kNodeNoFd) == 0;
  // The kernel's own ENOSPC to this very file is as good as a look at that moment.
  const bool at_the_time = looked_at_the_time(c) || s.error_number() == ENOSPC;
  const bool chain =
      s.error != nullptr && s.nospace && s.file_of_node && by_fd && at_the_time && file_system_full(c);
  Finding finding = storage_finding(c, chain ? Confidence::proven : Confidence::likely);
  finding.details["exhausted"] = file_system_full(c) ? "blocks" : "inodes";
  finding.summary = file_system_full(c)
                        ? fmt::format("{} failed with ENOSPC: {} free there", request_text(c),
                                      human_bytes(free_for_qemu(c, *s.file)))
                        : fmt::format("{} failed with ENOSPC: no inodes are left there", request_text(c));
  if (!by_fd)
    finding.not_proved.push_back({"that QEMU's own file is there", "no descriptor of it was found"});
  else if (!s.file_of_node)
    finding.not_proved.push_back(
        {"that this is the failing node's file", "QEMU did not say what lies under it"});
  if (!at_the_time)
    finding.not_proved.push_back({"that it was full when the request failed", "it was looked at later"});
  if (!file_system_full(c))
    finding.not_proved.push_back(
        {"that a missing inode failed it", "a write to an existing file needs none"});
  if (s.error == nullptr)
    finding.not_proved.push_back({"which request failed", "no BLOCK_IO_ERROR was seen"});
  finding.remedy.push_back(
      fmt::format("free space on {} (or enlarge it), then: {}", s.file->mount, qmp_call(c, "cont")));
  return found(std::move(finding));
}

Opinion judge_storage_device_gone(const Case& c) {
  if (!c.is_storage_error()) return nothing();
  const StorageFacts& s = c.storage;
  if (s.file == nullptr || unreachable(c)) return nothing();
  if (!is_block_device(*s.file)) {
    if (s.file->file.flags & trace::kNodePathDiffers) return nothing();
    return against("storage-device-gone",
                   fmt::format("QEMU's descriptor is a file on {}, no device", s.file->fs_type));
  }
  if (!device_dead(c) && !device_replaced(c))
    return against(
        "storage-device-gone",
        fmt::format("{} is there, {} large, and QEMU's descriptor is the device that the path names",
                    s.file->path, human_bytes(s.file->file.size_bytes)));
  const bool by_fd = (s.file->file.flags & trace::kNodeNoFd) == 0;
  const bool chain = s.error != nullptr && s.file_of_node && by_fd && device_dead(c) && looked_at_the_time(c);
  Finding finding = storage_finding(c, chain ? Confidence::proven : Confidence::likely);
  std::string how;
  if (s.file->file.flags & trace::kNodeSysMissing)
    how = "the kernel no longer has it";
  else if (s.file->file.size_bytes == 0)
    how = "it has size 0 now";
  else if (s.file->file.flags & trace::kNodePathDiffers)
    how =
        fmt::format("the path names {}:{} now", major(s.file->file.path_rdev), minor(s.file->file.path_rdev));
  else
    how = "its path is gone";
  finding.summary = fmt::format(
      "{} failed{}: the device {}:{} under QEMU's descriptor is dead or was replaced ({})", request_text(c),
      s.nospace ? " with a false ENOSPC" : "", major(s.file->file.rdev), minor(s.file->file.rdev), how);
  finding.details["false_enospc"] = s.nospace;
  finding.details["path_device"] =
      s.file->file.path_rdev == 0
          ? std::string("none")
          : fmt::format("{}:{}", major(s.file->file.path_rdev), minor(s.file->file.path_rdev));
  for (const timeline::KernelLine* line : device_lines(c)) finding.evidence.push_back(kernel_evidence(*line));
  if (!by_fd)
    finding.not_proved.push_back({"that QEMU's own device is dead", "no descriptor of it was found"});
  if (!device_dead(c))
    finding.not_proved.push_back(
        {"that the old device refused the request", "it is still there; " + why_no_block_failure(c)});
  if (!looked_at_the_time(c))
    finding.not_proved.push_back({"that it was gone when the request failed", "it was looked at later"});
  finding.remedy.push_back(
      "bring the device back, then stop and start the VM (power cycle, or detach and attach "
      "the disk): QEMU's descriptor never heals, and cont fails again");
  finding.remedy.emplace_back("do not look for space to free: this is not a full disk");
  return found(std::move(finding));
}

namespace {

struct Quota {
  std::string kind;  ///< "user", "group", "project".
  std::uint64_t id = 0, used = 0, limit = 0;
};

std::uint64_t number(std::string_view text) {
  std::uint64_t out = 0;
  std::from_chars(text.data(), text.data() + text.size(), out);
  return out;
}

/// The quota of the file that has no room for the request, as it was at the look: of several the one with the
/// least. Nothing: all had room, or none is known.
std::optional<Quota> used_up_quota(const Case& c) {
  const StorageFacts& s = c.storage;
  if (s.file == nullptr) return std::nullopt;
  const bool known = s.request != nullptr && s.request->io.length != UINT64_MAX;
  std::uint64_t room = std::max(kNoRoom, known ? s.request->io.length : 0);
  std::optional<Quota> out;
  for (const std::string_view text : split(s.file->quotas, ' ')) {
    const auto parts = split(text, ':');
    if (parts.size() != 4) continue;
    Quota quota{std::string(parts[0]), number(parts[1]), number(parts[2]), number(parts[3])};
    const std::uint64_t left = quota.limit - std::min(quota.limit, quota.used);
    if (quota.limit == 0 || left >= room) continue;
    room = left;
    out = std::move(quota);
  }
  return out;
}

void add_quota(const Case& c, const Quota& quota, Finding& finding) {
  finding.details["quota_kind"] = quota.kind;
  finding.details["quota_id"] = quota.id;
  finding.details["quota_used_bytes"] = quota.used;
  finding.details["quota_limit_bytes"] = quota.limit;
  finding.evidence.push_back({c.storage.file->time_ns, "proc",
                              fmt::format("quota of {} {}: {} of {} used", quota.kind, quota.id,
                                          human_bytes(quota.used), human_bytes(quota.limit))});
}

/// What stays open where no quota was seen at its limit.
void doubt_quota(const Case& c, bool said, Finding& finding) {
  finding.not_proved.push_back({"which quota is at its limit",
                                c.storage.file == nullptr || c.storage.file->quotas.empty()
                                    ? "no quota of the file's user, group or project was told"
                                    : "those of the file's user, group and project had room at the look"});
  if (said) return;
  finding.not_proved.push_back({"that it was a quota",
                                "space that came back since, or a short write that QEMU "
                                "turns into ENOSPC, look the same without probes"});
  if (c.storage.request != nullptr)
    finding.not_proved.back().why = "space that came back since gives the same error";
}

}  // namespace

Opinion judge_storage_quota(const Case& c) {
  if (!c.is_storage_error()) return nothing();
  const StorageFacts& s = c.storage;
  const bool seen = s.known_error() == EDQUOT;
  const bool said = seen || contains(s.reason, "quota exceeded");
  if (!said && !space_unexplained(c)) return nothing();
  const std::optional<Quota> quota = used_up_quota(c);
  if (!said && !quota &&
      (on_fuse(*s.file) || s.short_write != nullptr || !quota_may_say_enospc(*s.file) || nearly_full(c)))
    return nothing();
  const bool refused = seen || (quota && s.error_number() == ENOSPC && looked_at_the_time(c));
  Finding finding = storage_finding(c, refused && s.file_of_node ? Confidence::proven : Confidence::likely);
  finding.details["errno"] = said ? "EDQUOT" : "ENOSPC";
  finding.summary = fmt::format("{} failed with {}", request_text(c), said ? "EDQUOT" : "ENOSPC");
  if (quota)
    finding.summary += fmt::format(": the quota of {} {} is used up", quota->kind, quota->id);
  else if (said)
    finding.summary += ": a quota is used up";
  else
    finding.summary += fmt::format(" although {} is free there: a project quota does that",
                                   human_bytes(free_for_qemu(c, *s.file)));
  if (quota)
    add_quota(c, *quota, finding);
  else
    doubt_quota(c, said, finding);
  finding.remedy.push_back(
      "look at the quotas of the image's owner and project (repquota, xfs_quota), raise or free, "
      "then: " +
      qmp_call(c, "cont"));
  return found(std::move(finding));
}

Opinion judge_storage_thin_full(const Case& c) {
  if (!c.is_storage_error()) return nothing();
  const StorageFacts& s = c.storage;
  const timeline::KernelLine* line = space_line(c);
  const bool device = s.file != nullptr && is_block_device(*s.file) && !device_dead(c) && !device_replaced(c);
  const bool seen = s.block != nullptr && s.block->io.error == ENOSPC;
  if (line == nullptr && !seen && !(device && s.nospace)) {
    if (s.nospace && s.file != nullptr && !is_block_device(*s.file) && file_system_full(c))
      return against("storage-thin-full", "the file system itself has no room, and no device said so");
    return nothing();
  }
  const bool chain = (line != nullptr || seen) && device && s.nospace && s.file_of_node && s.error != nullptr;
  Finding finding = storage_finding(c, chain ? Confidence::proven : Confidence::likely);
  finding.summary = fmt::format(
      "{} failed: what backs the device {} has no space (thin pool, or the file of a loop "
      "device)",
      request_text(c), s.devices.empty() ? "under it" : s.devices.front());
  if (s.block == nullptr && !s.devices.empty()) finding.details["kernel_device"] = s.devices.front();
  if (line != nullptr)
    finding.evidence.push_back(kernel_evidence(*line));
  else if (!seen)
    finding.not_proved.push_back({"that the device had no space", "the kernel log has no such line"});
  if (!s.nospace)
    finding.not_proved.push_back(
        {"that this request met it", "through the page cache the error comes back as EIO"});
  finding.remedy.push_back(
      "enlarge or free what backs the device (thin pool: lvs; loop: the file's file system), "
      "then: " +
      qmp_call(c, "cont"));
  return found(std::move(finding));
}

Opinion judge_storage_short_write(const Case& c) {
  if (!space_unexplained(c)) return nothing();
  const StorageFacts& s = c.storage;
  // A call that failed outright is no short one.
  if (s.request != nullptr) return nothing();
  const bool seen = s.short_write != nullptr;
  if (!seen && !on_fuse(*s.file)) return nothing();
  Finding finding = storage_finding(c, seen && s.file_of_node ? Confidence::proven : Confidence::likely);
  finding.summary = fmt::format("{} was written in part only, and QEMU calls that ENOSPC: {} is free there",
                                request_text(c), human_bytes(free_for_qemu(c, *c.storage.file)));
  if (seen)
    finding.details["done"] = s.short_write->io.result;
  else
    finding.not_proved.push_back({"that the kernel returned a short write",
                                  "the syscall's result was not seen; a full "
                                  "store behind the server looks the same"});
  finding.remedy.push_back((on_fuse(*s.file)
                                ? "look at the file system's server and what it stores to, then: "
                                : "look at what the file system stores to, then: ") +
                           qmp_call(c, "cont"));
  return found(std::move(finding));
}

Opinion judge_storage_beyond_end(const Case& c) {
  if (!c.is_storage_error()) return nothing();
  const StorageFacts& s = c.storage;
  if (s.file == nullptr || !is_block_device(*s.file) || device_dead(c)) return nothing();
  if (s.request != nullptr && s.request->io.length != UINT64_MAX && s.file_of_node) {
    const trace::IoSyscall& io = s.request->io;
    const std::uint64_t size = s.file->file.size_bytes;
    if (io.offset <= size && io.length <= size - io.offset)
      return against("storage-beyond-end", fmt::format("the failing call ends {} below the device's end",
                                                       human_bytes(size - io.offset - io.length)));
    Finding finding = storage_finding(c, Confidence::proven);
    finding.summary = fmt::format("{} failed beyond the end of the device: {} bytes at offset {} of {}",
                                  request_text(c), io.length, io.offset, human_bytes(size));
    for (const timeline::KernelLine* line : device_lines(c))
      if (contains(line->text, "detected capacity change"))
        finding.evidence.push_back(kernel_evidence(*line));
    finding.remedy.push_back("extend the device under the image, then: " + qmp_call(c, "cont"));
    return found(std::move(finding));
  }
  const timeline::BlockBackends* stats = nullptr;
  for (const timeline::BlockBackends& backends : c.vm.backends)
    if (!backends.highest_write.empty() && backends.time_ns >= c.begin &&
        backends.time_ns <= c.until + timeline::kSecond)
      stats = &backends;
  if (stats == nullptr) return nothing();
  const std::uint64_t size = s.file->file.size_bytes;
  // The lowest node's offsets are the device's own.
  for (auto node = s.chain.rbegin(); node != s.chain.rend(); ++node) {
    auto at = stats->highest_write.find(*node);
    if (at == stats->highest_write.end() || at->second == 0) continue;
    constexpr std::uint64_t kNear = 2u << 20;
    if (at->second + kNear < size)
      return against("storage-beyond-end",
                     fmt::format("the highest byte written is {} below the device's end",
                                 human_bytes(size - at->second)));
    Finding finding = storage_finding(c, Confidence::likely);
    finding.summary = fmt::format("{} failed at the end of the device: it was written up to {} of {}",
                                  request_text(c), human_bytes(at->second), human_bytes(size));
    finding.details["highest_write_bytes"] = at->second;
    finding.evidence.push_back(
        {stats->time_ns, "qmp",
         fmt::format("query-blockstats: node '{}' was written up to byte {}", *node, at->second)});
    for (const timeline::KernelLine* line : device_lines(c)) {
      if (!contains(line->text, "detected capacity change")) continue;
      finding.summary += "; the device changed its size under QEMU";
      finding.evidence.push_back(kernel_evidence(*line));
    }
    finding.not_proved.push_back({"the failing request's offset", "QMP does not tell it"});
    finding.remedy.push_back("extend the device under the image, then: " + qmp_call(c, "cont"));
    return found(std::move(finding));
  }
  return nothing();
}

}  // namespace vmwhy::causes
