// SPDX-License-Identifier: BSD-2-Clause
#include "causes/rules/storage_common.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>

#include "causes/inside.hpp"
#include "core/text.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {

bool is_block_device(const timeline::NodeFile& file) {
  return S_ISBLK(file.file.mode);
}

std::string request_text(const Case& c) {
  const StorageFacts& s = c.storage;
  if (s.error == nullptr) return "a request that no event names";
  std::string text = fmt::format("{} {} node '{}'", s.operation.empty() ? "request" : s.operation,
                                 s.operation == "read" ? "from" : "to", s.node);
  if (s.file == nullptr || !s.file_of_node) return text;
  text += " (" + s.file->path;
  if (!is_block_device(*s.file) && !s.file->fs_type.empty())
    text += fmt::format(" on {} {}", s.file->fs_type, s.file->mount);
  return text + ")";
}

Finding storage_finding(const Case& c, Confidence confidence) {
  const StorageFacts& s = c.storage;
  Finding finding;
  finding.confidence = confidence;
  if (s.error != nullptr) {
    finding.evidence.push_back(qmp_evidence(*s.error));
    finding.details["node"] = s.node;
    finding.details["operation"] = s.operation;
    finding.details["reason"] = s.reason;
    finding.details["nospace"] = s.nospace;
    finding.details["errors"] = s.errors;
  }
  if (const timeline::IoRequest* request = s.request != nullptr ? s.request : s.short_write) {
    finding.evidence.push_back(request_evidence(*request));
    if (s.kernel_failures > 1)
      finding.evidence.back().text +=
          fmt::format("; the first of {} that failed, QMP told of {}", s.kernel_failures, s.errors);
    finding.details["call"] = request->call;
    finding.details["thread"] = request->io.tid;
    finding.details["offset"] = request->io.offset;
    if (request->io.length != UINT64_MAX) finding.details["length"] = request->io.length;
    if (s.request != nullptr) finding.details["errno"] = errno_name(s.error_number());
    finding.details["kernel_failures"] = s.kernel_failures;
  }
  if (s.in_qemu != nullptr) {
    finding.evidence.push_back(call_evidence(*s.in_qemu));
    if (s.qemu_errors > s.errors)
      finding.evidence.back().text +=
          fmt::format("; the first of {}, QMP told of {}", s.qemu_errors, s.errors);
    if (s.known_error() != 0) finding.details["errno"] = errno_name(s.known_error());
    finding.details["qemu_errors"] = s.qemu_errors;
  }
  if (s.block != nullptr) {
    finding.evidence.push_back(block_evidence(*s.block));
    finding.details["kernel_device"] = s.block->disk;
    finding.details["sector"] = s.block->io.sector;
  }
  for (const std::string& driver : s.drivers)
    if (!driver.empty()) finding.details["driver"] = driver;  // The lowest one known.
  if (s.file != nullptr) {
    finding.evidence.push_back(file_evidence(*s.file));
    finding.details["path"] = s.file->path;
    if (is_block_device(*s.file)) {
      finding.details["device"] = fmt::format("{}:{}", major(s.file->file.rdev), minor(s.file->file.rdev));
      finding.details["device_bytes"] = s.file->file.size_bytes;
    } else if (!s.file->fs_type.empty()) {
      finding.details["mount"] = s.file->mount;
      finding.details["fs_type"] = s.file->fs_type;
      if (s.file->file.flags & trace::kNodeUnreachable) return finding;
      finding.details["fs_size_bytes"] = s.file->file.fs_size_bytes;
      finding.details["fs_free_bytes"] = s.file->file.fs_free_bytes;
      finding.details["fs_avail_bytes"] = s.file->file.fs_avail_bytes;
      finding.details["fs_files_free"] = s.file->file.fs_files_free;
    }
  }
  return finding;
}

bool looked_at_the_time(const Case& c) {
  const timeline::NodeFile* file = c.storage.file;
  if (file == nullptr || c.incident.began_before_watch) return false;
  if (c.incident.end_ns && file->time_ns > *c.incident.end_ns) return false;
  if (file->time_ns < c.begin) return false;
  return file->time_ns <= c.begin + 5 * timeline::kSecond;
}

std::uint64_t free_for_qemu(const Case& c, const timeline::NodeFile& file) {
  // What a file system holds back is not all for root: ext4 keeps some for its own metadata.
  const bool refused = c.storage.nospace && file.file.fs_avail_bytes == 0;
  return c.vm.uid && *c.vm.uid == 0 && !refused ? file.file.fs_free_bytes : file.file.fs_avail_bytes;
}

bool file_system_full(const Case& c) {
  const timeline::NodeFile* file = c.storage.file;
  if (file == nullptr || is_block_device(*file) || file->file.fs_size_bytes == 0) return false;
  if (file->file.flags & (trace::kNodeUnreachable | trace::kNodeStatFailed)) return false;
  // A request that the kernel refused for want of space may be larger than what is left.
  const timeline::IoRequest* request = c.storage.error_number() == ENOSPC ? c.storage.request : nullptr;
  const bool known = request != nullptr && request->io.length != UINT64_MAX;
  return free_for_qemu(c, *file) < std::max(kNoRoom, known ? request->io.length : 0);
}

bool device_dead(const Case& c) {
  const timeline::NodeFile* file = c.storage.file;
  if (file == nullptr || !is_block_device(*file) || (file->file.flags & trace::kNodeUnreachable))
    return false;
  return file->file.size_bytes == 0 || (file->file.flags & trace::kNodeSysMissing) != 0;
}

bool device_replaced(const Case& c) {
  const timeline::NodeFile* file = c.storage.file;
  if (file == nullptr || !is_block_device(*file) || (file->file.flags & trace::kNodeUnreachable))
    return false;
  return (file->file.flags & (trace::kNodePathDiffers | trace::kNodePathMissing | trace::kNodeDeleted)) != 0;
}

bool nospace_below(const Case& c) {
  if (c.storage.block != nullptr && c.storage.block->io.error == ENOSPC) return true;
  for (const timeline::KernelLine* line : device_lines(c))
    if (contains(line->text, "critical space allocation error")) return true;
  return false;
}

std::vector<const timeline::KernelLine*> device_lines(const Case& c) {
  std::vector<const timeline::KernelLine*> lines;
  for (const timeline::KernelLine* line : c.kernel_lines(10 * timeline::kSecond, 2 * timeline::kSecond)) {
    const auto named = [&](const std::string& device) { return contains_word(line->text, device); };
    // Device mapper names its devices by their numbers.
    const bool numbered = contains(line->text, "device-mapper") && c.storage.file != nullptr &&
                          std::ranges::any_of(c.storage.file->devices, named, &timeline::BlockDevice::number);
    if (numbered || std::ranges::any_of(c.storage.devices, named)) lines.push_back(line);
    if (lines.size() >= 16) break;
  }
  return lines;
}

bool network_file_system(const timeline::NodeFile* file) {
  if (file == nullptr) return false;
  const std::string& type = file->fs_type;
  return type == "nfs" || type == "nfs4" || type == "cifs" || type == "smb3" || type == "ceph" ||
         type == "9p" || type == "fuse.glusterfs" || type == "fuse.sshfs";
}

std::string kernel_client(const timeline::NodeFile& file) {
  if (network_file_system(&file)) return file.fs_type;
  for (const timeline::BlockDevice& device : file.devices)
    if (!device.transport.empty()) return device.transport;
  return {};
}

bool only_remote(const timeline::NodeFile& file) {
  return std::ranges::none_of(file.devices, [](const timeline::BlockDevice& device) {
    return device.transport.empty() && !device.name.starts_with("dm-") && !device.name.starts_with("md");
  });
}

namespace {

const timeline::SensorState* ledger_sensor(const Case& c) {
  const auto found = c.timeline.host().sensors.find("bpf");
  const bool off = found == c.timeline.host().sensors.end() || found->second.state == trace::SensorState::off;
  return off ? nullptr : &found->second;
}

}  // namespace

std::string why_no_block_failure(const Case& c) {
  if (ledger_sensor(c) == nullptr) return "the block layer was not watched";
  return c.incident.began_before_watch ? "it came before the watch"
                                       : "the block layer told of no failed request to it";
}

std::string why_no_call_under_way(const Case& c) {
  const timeline::SensorState* sensor = ledger_sensor(c);
  return sensor == nullptr || contains(sensor->detail, "system calls not seen")
             ? "system calls were not watched"
             : "none was under way for long enough to be recorded";
}

std::vector<const timeline::KernelLine*> connection_lines(const Case& c, const timeline::NodeFile& file,
                                                          std::uint64_t from, std::uint64_t until) {
  static constexpr std::string_view kLost[] = {
      "shutting down sockets", "Receive control failed", "Send control failed",
      "Connection timed out",  "Dead connection",        "not responding",
      "not connected",         "detected conn error",    "session recovery timed out"};
  static constexpr std::string_view kSession = "session";
  // "nbd0: ", "nfs: server 192.0.2.7 ", "connection1:0: ".
  std::vector<std::string> names;
  if (network_file_system(&file))
    names.push_back("server " + file.source.substr(0, file.source.rfind(":/")) + " ");
  for (const timeline::BlockDevice& device : file.devices)
    if (device.session.starts_with(kSession)) {
      const std::string number = device.session.substr(kSession.size());
      names.push_back(fmt::format("{}{}:", kSession, number));
      names.push_back(fmt::format("connection{}:", number));
    } else if (!device.transport.empty()) {
      names.push_back(device.name + ":");
    }
  std::vector<const timeline::KernelLine*> lines;
  for (const timeline::KernelLine& line : c.timeline.host().kernel) {
    if (line.time_ns < from || line.time_ns > until || lines.size() >= 8) continue;
    const auto in_line = [&](std::string_view text) { return contains(line.text, text); };
    if (std::any_of(names.begin(), names.end(), in_line) &&
        std::any_of(std::begin(kLost), std::end(kLost), in_line))
      lines.push_back(&line);
  }
  return lines;
}

bool in_storage(std::string_view kernel_functions) {
  static constexpr std::string_view kWaits[] = {"request_wait_answer",
                                                "percpu_rwsem_wait",
                                                "io_schedule",
                                                "folio_wait",
                                                "wait_on_page",
                                                "wait_on_buffer",
                                                "blk_",
                                                "nfs",
                                                "rpc_",
                                                "ceph",
                                                "jbd2",
                                                "xfs",
                                                "ext4",
                                                "btrfs",
                                                "fuse",
                                                "sb_start_write",
                                                "rwsem_down",
                                                "submit_bio_wait",
                                                "inode_dio_wait",
                                                "iomap",
                                                "lock_sock_nested",
                                                "dm_"};
  return std::any_of(std::begin(kWaits), std::end(kWaits),
                     [&](std::string_view wait) { return contains(kernel_functions, wait); });
}

}  // namespace vmwhy::causes
