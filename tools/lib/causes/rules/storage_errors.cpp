// SPDX-License-Identifier: BSD-2-Clause
// Requests that a lower layer failed.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "causes/actors.hpp"
#include "causes/rules/rules.hpp"
#include "causes/rules/storage_common.hpp"
#include "core/text.hpp"
#include "timeline/json_read.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {
namespace {

bool any_of(std::string_view text, std::initializer_list<std::string_view> needles) {
  for (std::string_view needle : needles)
    if (contains(text, needle)) return true;
  return false;
}

bool says_io_error(std::string_view line) {
  return any_of(line, {"I/O error", "critical medium error", "critical target error", "critical nexus error",
                       "recoverable transport error", "timeout error", "rejecting I/O", "protection error",
                       "Medium Error", "Hardware Error", "DID_", "device offline", "lost page write"});
}

bool says_corruption(std::string_view line) {
  return any_of(line, {"EXT4-fs error", "EXT4-fs warning", "Corruption", "corruption", "metadata I/O error",
                       "BTRFS error", "BTRFS critical", "Remounting filesystem read-only", "forced readonly",
                       "Shutting down filesystem", "has been shut down", "F2FS-fs", "FAT-fs"});
}

bool says_discard(std::string_view line) {
  return any_of(line, {":(DISCARD)", ":(WRITE_ZEROES)", ":(SECURE_ERASE)", "Unmap", "UNMAP", "Write same"});
}

std::vector<const timeline::KernelLine*> lines_that(const Case& c, bool (*says)(std::string_view)) {
  std::vector<const timeline::KernelLine*> lines;
  for (const timeline::KernelLine* line : device_lines(c))
    if (says(line->text)) lines.push_back(line);
  return lines;
}

/// Another machine's, as far as /sys tells.
bool is_remote(const timeline::NodeFile& file, std::string_view disk) {
  return std::ranges::any_of(file.devices, [&](const timeline::BlockDevice& device) {
    return device.name == disk && !device.transport.empty();
  });
}

/// A disk of this host was the first to fail, as under a mirror of it and another machine's.
bool failed_here(const StorageFacts& s) {
  return s.file != nullptr && s.block != nullptr && !is_remote(*s.file, s.block->disk);
}

/// The kernel's own client lost its server, shortly before or after the error.
std::vector<const timeline::KernelLine*> lost_lines(const Case& c) {
  if (c.storage.file == nullptr || failed_here(c.storage)) return {};
  return connection_lines(c, *c.storage.file, c.begin - std::min(c.begin, 10 * timeline::kSecond),
                          c.begin + 2 * timeline::kSecond);
}

/// The call's errno tells of a request that failed below, and nothing names a cause of its own for it.
bool answered_with_io_error(const Case& c) {
  const StorageFacts& s = c.storage;
  switch (s.error_number()) {
    case 0:
    case ENOSPC:
    case EDQUOT:
    case EACCES:
    case EPERM:
    case EUCLEAN:
    case EROFS:
    case EINVAL:
      return false;
    default:
      break;
  }
  if (s.request->is(trace::IoOperation::discard) || s.request->is(trace::IoOperation::zeroes)) return false;
  return !device_dead(c) && !device_replaced(c) && !nospace_below(c) && s.network_driver().empty() &&
         (s.file == nullptr || kernel_client(*s.file).empty()) && lines_that(c, says_corruption).empty();
}

}  // namespace

Opinion judge_storage_io_error(const Case& c) {
  if (!c.is_storage_error()) return nothing();
  const StorageFacts& s = c.storage;
  if (s.error != nullptr && s.nospace)
    return against("storage-io-error", "QEMU says nospace: the request failed with ENOSPC");
  if (s.request != nullptr && (s.error_number() == EDQUOT || s.error_number() == EACCES ||
                               s.error_number() == EPERM || s.error_number() == EUCLEAN))
    return against("storage-io-error", fmt::format("the call failed with {}, which no disk answers",
                                                   errno_name(s.error_number())));
  if (!lost_lines(c).empty())
    return against("storage-io-error", "the kernel lost the connection to the server");
  const std::vector<const timeline::KernelLine*> lines = lines_that(c, says_io_error);
  // A failed discard is told apart by its own rule: QMP does not say which request it was.
  const bool discarded = s.block != nullptr &&
                         (s.block->io.operation == static_cast<std::uint32_t>(trace::IoOperation::discard) ||
                          s.block->io.operation == static_cast<std::uint32_t>(trace::IoOperation::zeroes));
  const bool discard =
      discarded || std::any_of(lines.begin(), lines.end(),
                               [](const timeline::KernelLine* line) { return says_discard(line->text); });
  const bool below = !lines.empty() || s.block != nullptr;
  const bool chain = s.error != nullptr && s.file_of_node && !discard && (below || answered_with_io_error(c));
  Finding finding = storage_finding(c, chain ? Confidence::proven : Confidence::likely);
  finding.summary = s.error == nullptr
                        ? "an I/O error stopped the VM; which request it was, and its error, was not seen"
                        : fmt::format("{} failed: {}", request_text(c), s.reason);
  if (s.injected) {
    finding.summary += " (QEMU's own blkdebug driver is in the chain, and injects errors)";
    finding.details["driver"] = "blkdebug";
  }
  if (c.incident.topic == timeline::Topic::io_reported)
    finding.summary += "; the guest was told, and goes on";
  if (s.known_error() == EFBIG)
    finding.summary += " (EFBIG: above QEMU's file-size limit, or the file system's largest file)";
  for (const timeline::KernelLine* line : lines) finding.evidence.push_back(kernel_evidence(*line));
  if (s.block == nullptr && !s.devices.empty()) finding.details["kernel_device"] = s.devices.front();
  if (!below && s.request != nullptr && s.known_error() != EFBIG)
    finding.not_proved.push_back(
        {"which layer below the system call failed first",
         "neither the kernel log nor the block layer names a device under the node"});
  if (!below && s.request == nullptr)
    finding.not_proved.push_back(
        {"which layer failed first",
         "the kernel log names no device under the node, and " + why_no_block_failure(c)});
  if (s.error == nullptr)
    finding.not_proved.push_back({"what the error was",
                                  "no BLOCK_IO_ERROR was seen; query-block's io-status may name an "
                                  "older one"});
  if (c.incident.topic == timeline::Topic::io_reported) {
    finding.remedy.emplace_back(
        "mend what lies under the node; the guest saw the error: look at its file systems");
    return found(std::move(finding));
  }
  if (s.known_error() == EFBIG) {
    finding.remedy.push_back(fmt::format("raise the limit: prlimit --pid {} --fsize=unlimited, then: {}",
                                         c.vm.pid, qmp_call(c, "cont")));
    return found(std::move(finding));
  }
  finding.remedy.push_back("mend what lies under the node, then: " + qmp_call(c, "cont") +
                           " (it retries the request; if it fails again, the next pause follows at once)");
  return found(std::move(finding));
}

Opinion judge_storage_fs_corruption(const Case& c) {
  if (!c.is_storage_error()) return nothing();
  const StorageFacts& s = c.storage;
  const bool seen = s.known_error() == EUCLEAN || s.known_error() == EROFS;
  const bool said = seen || any_of(s.reason, {"Structure needs cleaning", "Read-only file system"});
  const bool read_only = s.file != nullptr && (s.file->file.flags & trace::kNodeReadOnlyFs) != 0 &&
                         s.operation != "read" && !s.nospace && s.error != nullptr;
  const std::vector<const timeline::KernelLine*> lines = lines_that(c, says_corruption);
  const bool file = s.file != nullptr && !is_block_device(*s.file);
  if (!said && !(file && (read_only || !lines.empty()))) return nothing();
  if (s.nospace) return nothing();
  const bool chain =
      s.file_of_node && s.error != nullptr && ((!lines.empty() && (said || read_only)) || (seen && file));
  Finding finding = storage_finding(c, chain ? Confidence::proven : Confidence::likely);
  finding.summary =
      fmt::format("{} failed: the file system is damaged, shut down or read-only now", request_text(c));
  finding.details["read_only"] = read_only;
  for (const timeline::KernelLine* line : lines) finding.evidence.push_back(kernel_evidence(*line));
  if (lines.empty())
    finding.not_proved.push_back({"what happened to the file system", "the kernel log has no line of it"});
  finding.remedy.push_back(
      "save what the kernel log says, then stop the VM and check the file system unmounted");
  return found(std::move(finding));
}

Opinion judge_storage_discard_failed(const Case& c) {
  if (!c.is_storage_error() || c.storage.operation == "read") return nothing();
  std::vector<const timeline::KernelLine*> lines;
  for (const timeline::KernelLine* line : device_lines(c))
    if (says_discard(line->text) && any_of(line->text, {"error", "Error", "failed"})) lines.push_back(line);
  const StorageFacts& s = c.storage;
  const bool called = s.request != nullptr && (s.request->is(trace::IoOperation::discard) ||
                                               s.request->is(trace::IoOperation::zeroes));
  const auto is = [&](trace::IoOperation operation) {
    return s.block != nullptr && s.block->io.operation == static_cast<std::uint32_t>(operation);
  };
  const bool below = is(trace::IoOperation::discard) || is(trace::IoOperation::zeroes);
  if (lines.empty() && !called && !below) return nothing();
  // Allocating zeroes, or splitting an extent for a hole, takes room: refused for want of it, that is the
  // cause.
  if (called && (s.error_number() == ENOSPC || s.error_number() == EDQUOT)) return nothing();
  Finding finding = storage_finding(c, called && s.file_of_node ? Confidence::proven : Confidence::likely);
  finding.summary = fmt::format("{} failed, and the request was a discard or write-zeroes", request_text(c));
  for (const timeline::KernelLine* line : lines) finding.evidence.push_back(kernel_evidence(*line));
  if (!called) finding.not_proved.push_back({"that this request was the discard", "QMP calls it a write"});
  finding.remedy.push_back(
      "turn discard off for this disk (discard=ignore), or mend the target's UNMAP; then: " +
      qmp_call(c, "cont"));
  return found(std::move(finding));
}

Opinion judge_storage_permission(const Case& c) {
  if (!c.is_storage_error()) return nothing();
  const StorageFacts& s = c.storage;
  const bool seen = s.known_error() == EACCES || s.known_error() == EPERM;
  if (!seen && !any_of(s.reason, {"Permission denied", "Operation not permitted"})) return nothing();
  const timeline::KernelLine* denial = nullptr;
  const std::string pid = fmt::format("pid={}", c.vm.pid);
  for (const timeline::KernelLine* line : c.kernel_lines(5 * timeline::kSecond, 2 * timeline::kSecond))
    if (contains(line->text, "avc:") && contains(line->text, "denied") && c.vm.pid != 0 &&
        contains_word(line->text, pid))
      denial = line;
  const bool chain = denial != nullptr || (seen && s.file_of_node);
  Finding finding = storage_finding(c, chain ? Confidence::proven : Confidence::likely);
  finding.summary = fmt::format("{} was refused: {}", request_text(c), s.reason);
  if (s.file != nullptr) {
    finding.details["mode"] = fmt::format("{:o}", s.file->file.mode & 07777);
    finding.details["owner_uid"] = s.file->file.owner_uid;
  }
  if (denial != nullptr) {
    finding.summary += " (a security policy denied it)";
    finding.evidence.push_back(kernel_evidence(*denial));
  } else if (const std::string driver(s.network_driver()); !driver.empty()) {
    finding.details["transport"] = driver;
    finding.not_proved.push_back({"why the server refused it", "only its own log tells"});
    finding.remedy.push_back("see whether the server offers the disk for reading only, and to whom; then: " +
                             qmp_call(c, "cont"));
    return found(std::move(finding));
  } else {
    finding.not_proved.push_back({"who refused it", "the kernel log has no denial of this process"});
  }
  finding.remedy.push_back("compare owner, mode and label of the file with what QEMU runs as, then: " +
                           qmp_call(c, "cont"));
  return found(std::move(finding));
}

Opinion judge_storage_network(const Case& c) {
  const StorageFacts& s = c.storage;
  if (!c.is_storage_error() || s.error == nullptr || s.nospace) return nothing();
  const std::string driver(s.network_driver());
  const std::string what = !driver.empty() ? driver : s.file != nullptr ? kernel_client(*s.file) : "";
  if (what.empty() || failed_here(s)) return nothing();
  const auto lines = driver.empty() ? lost_lines(c) : std::vector<const timeline::KernelLine*>{};
  Finding finding =
      storage_finding(c, !lines.empty() && s.file_of_node ? Confidence::proven : Confidence::likely);
  finding.details["transport"] = what;
  finding.summary =
      lines.empty()
          ? fmt::format("{} failed: {}; it goes over the network ({}), whose connection is the first suspect",
                        request_text(c), s.reason, what)
          : fmt::format("{} failed: {}; the kernel's {} client lost its server", request_text(c), s.reason,
                        what);
  for (const timeline::KernelLine* line : lines) finding.evidence.push_back(kernel_evidence(*line));
  if (lines.empty())
    finding.not_proved.push_back({"that the connection broke",
                                  driver.empty() ? "the kernel log does not say so; a server that answers "
                                                   "with an error looks the same"
                                                 : "the socket was not watched; a server that answers with "
                                                   "an error looks the same"});
  else
    finding.not_proved.push_back(
        {"why the connection is lost", "the server, and the way to it, were not seen"});
  finding.remedy.push_back("look at the server and the link; when both are well: " + qmp_call(c, "cont"));
  if (driver == "nbd")
    finding.remedy.push_back(
        "without reconnect-delay an NBD node does not connect again: detach and attach the disk, or "
        "restart the VM");
  add_link_of_error(c, s.error->time_ns, finding);
  return found(std::move(finding));
}

Opinion judge_pause_loop(const Case& c) {
  if (c.incident.topic != timeline::Topic::pause_loop) return nothing();
  Finding finding = storage_finding(c, Confidence::proven);
  const auto span = static_cast<std::int64_t>(c.incident.last_ns - c.incident.begin_ns);
  finding.summary =
      fmt::format("the VM was paused by I/O errors {} times within {}, and somebody resumed it each time",
                  c.incident.count, human_duration(span));
  finding.details["pauses"] = c.incident.count;
  finding.details["window_ns"] = c.incident.last_ns - c.incident.begin_ns;
  for (const char* name : {"STOP", "RESUME"}) {
    const timeline::Bounded<timeline::QmpEvent>* events = c.vm.events_named(name);
    if (events == nullptr) continue;
    std::size_t shown = 0;
    for (const timeline::QmpEvent& event : *events)
      if (event.time_ns >= c.begin && event.time_ns <= c.until && shown++ < 3)
        finding.evidence.push_back(qmp_evidence(event));
  }
  if (const Act act = last_act(c.vm, {"cont"}, c.begin, c.until)) {
    finding.details["resumed_by"] = act.details();
    finding.evidence.push_back(act.evidence());
  } else {
    finding.not_proved.push_back({"who sends cont", no_actor(c)});
  }
  std::uint64_t failures = 0;
  const timeline::IoRequest* first = nullptr;
  for (const timeline::IoRequest& request : c.vm.requests) {
    if (!request.failed() || request.time_ns < c.from || request.time_ns > c.until) continue;
    if (first == nullptr) first = &request;
    ++failures;
  }
  if (first != nullptr) {
    failures += c.vm.requests.dropped();
    finding.details["kernel_failures"] = failures;
    if (first != c.storage.request) finding.evidence.push_back(request_evidence(*first));
    finding.summary +=
        fmt::format("; QMP told of {} failed requests, the kernel failed {}, the first at offset {} of {}",
                    c.storage.errors, failures, first->io.offset, first->path);
    if (first->error() != 0) finding.summary += " with " + errno_name(first->error());
  } else {
    finding.not_proved.push_back({"how many requests failed",
                                  "QEMU 9.2 and later limit BLOCK_IO_ERROR to one a second and "
                                  "device"});
  }
  finding.remedy.push_back(
      "see the first pauses for the cause; stop whoever resumes the VM until the storage is mended");
  return found(std::move(finding));
}

}  // namespace vmwhy::causes
