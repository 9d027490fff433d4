// SPDX-License-Identifier: BSD-2-Clause
// A request to the storage that does not come back, and whose fault that is.
#include <fmt/format.h>

#include <algorithm>

#include "causes/rules/rules.hpp"
#include "causes/rules/storage_common.hpp"
#include "causes/rules/threads.hpp"
#include "core/text.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {
namespace {

constexpr unsigned kQmpReasons = timeline::kNoReply | timeline::kNoGreeting;

bool waits_for_storage(const timeline::Thread& thread) {
  return in_storage(thread.wchan) || in_storage(thread.stack);
}

const timeline::NodeFile* unreachable_file(const Case& c) {
  for (const timeline::NodeFile& file : c.vm.files)
    if (file.time_ns + timeline::kSecond >= c.begin && file.time_ns <= c.until + timeline::kSecond &&
        (file.file.flags & trace::kNodeUnreachable))
      return &file;
  return nullptr;
}

const timeline::IoRequest* oldest_under_way(const Case& c) {
  const timeline::IoRequest* oldest = nullptr;
  for (const timeline::IoRequest& request : c.vm.requests) {
    if (request.io.what != static_cast<std::uint32_t>(trace::IoWhat::under_way)) continue;
    if (request.time_ns < c.from || request.time_ns > c.until + timeline::kSecond) continue;
    if (oldest == nullptr ||
        request.time_ns - request.io.duration_ns <= oldest->time_ns - oldest->io.duration_ns)
      oldest = &request;
  }
  return oldest;
}

/// The files answer what is asked of them, and a request for data hangs.
void name_file_of_threads(const std::vector<const timeline::Thread*>& waiting, Finding& finding) {
  for (const timeline::Thread* thread : waiting) {
    if (thread->file.empty()) continue;
    finding.summary += ": " + thread->file;
    finding.details["path"] = thread->file;
    return;
  }
  finding.not_proved.push_back({"which file hangs", "every node's file that was tried answered"});
}

/// The latest look at what a request hangs on.
const timeline::NodeFile* latest_look(const Case& c, const Finding& finding) {
  const auto* path = finding.details.if_contains("path");
  const timeline::NodeFile* out = nullptr;
  if (path == nullptr) return out;
  for (const timeline::NodeFile& file : c.vm.files)
    if (file.path == std::string_view(path->as_string()) &&
        (out == nullptr || !file.devices.empty() || !file.fs_type.empty()))
      out = &file;
  return out;
}

std::uint64_t ten_seconds_before(const Case& c) {
  return c.begin - std::min(c.begin, 10 * timeline::kSecond);
}

void blame_connection(const timeline::NodeFile& file, const std::vector<const timeline::KernelLine*>& lines,
                      Finding& finding) {
  finding.summary += fmt::format("; the kernel's {} client lost its server", kernel_client(file));
  finding.details["transport"] = kernel_client(file);
  for (const timeline::KernelLine* line : lines) finding.evidence.push_back(kernel_evidence(*line));
  if (!only_remote(file)) {
    finding.confidence = Confidence::likely;
    finding.not_proved.push_back(
        {"that the request waits for that server", "a disk of this host is under the file too"});
  }
  finding.not_proved.push_back(
      {"why the connection is lost", "the server, and the way to it, were not seen"});
  finding.remedy.emplace_back(
      "look at the server and the way to it, and let the client connect again; the VM then goes on by "
      "itself");
}

/// What a request that does not come back waits for.
enum class Waits { storage, lost_server, full_pool };

/// The latest that the kernel said of the mode of a thin pool under the file, if it is that it has no room
/// and holds the requests.
const timeline::KernelLine* full_pool_line(const Case& c, const timeline::NodeFile& file) {
  const timeline::KernelLine* latest = nullptr;
  for (const timeline::KernelLine& line : c.timeline.host().kernel) {
    if (line.time_ns > c.until || !contains(line.text, "device-mapper: thin: ") ||
        !contains(line.text, "switching pool to"))
      continue;
    const bool ours = std::ranges::any_of(file.devices, [&](const timeline::BlockDevice& device) {
      return contains(line.text, " " + device.number + ": ");
    });
    if (ours) latest = &line;
  }
  return latest != nullptr && contains(latest->text, "(queue IO)") ? latest : nullptr;
}

void blame_pool(const timeline::KernelLine& line, Finding& finding) {
  finding.summary += "; the thin pool below it has no room, and holds the requests";
  finding.evidence.push_back(kernel_evidence(line));
  finding.remedy.emplace_back(
      "enlarge the pool (lvextend; its thin volumes: lvs), or free space in it; the VM then goes on by "
      "itself");
  finding.remedy.emplace_back(
      "be quick: after no_space_timeout (60 s unless dm_thin_pool was told otherwise) the pool fails the "
      "requests");
}

/// A request that does not come back, if that is what it waits for.
Opinion judge_hang(const Case& c, Waits waits) {
  if (!c.is_stall()) return nothing();
  const timeline::NodeFile* file = unreachable_file(c);
  std::vector<const timeline::Thread*> waiting;
  for (const timeline::Thread* thread : threads_of(c))
    if (!refrigerated(*thread) && (letter(*thread) == 'D' || letter(*thread) == 'S') &&
        waits_for_storage(*thread))
      waiting.push_back(thread);
  const bool hung = (c.incident.all_reasons & timeline::kHungThread) != 0;
  if (file == nullptr && waiting.empty()) {
    if (waits == Waits::storage && !c.vm.files.empty() && c.vm.files.back().time_ns >= c.begin)
      return against("storage-hang", "each node's file answered at once, and no thread waits for storage");
    return nothing();
  }
  if (file == nullptr && !hung && (c.incident.all_reasons & kQmpReasons) == 0) return nothing();
  Finding finding;
  finding.confidence = file != nullptr && !waiting.empty() ? Confidence::proven : Confidence::likely;
  finding.summary = "a request to the storage was issued and does not come back";
  if (file != nullptr) {
    finding.summary += fmt::format(": {} does not answer", file->path);
    finding.details["node"] = file->node;
    finding.details["path"] = file->path;
    finding.evidence.push_back(file_evidence(*file));
  } else {
    name_file_of_threads(waiting, finding);
    // Its system call was seen to stand, on this file.
    if (hung && finding.details.contains("path")) finding.confidence = Confidence::proven;
  }
  for (const timeline::Thread* thread : waiting) {
    if (finding.evidence.size() >= 8) break;
    finding.evidence.push_back(thread_evidence(*thread));
  }
  if (!waiting.empty()) {
    finding.details["thread"] = waiting.front()->state.tid;
    finding.details["wchan"] = waiting.front()->wchan;
  }
  const timeline::IoRequest* oldest = oldest_under_way(c);
  if (oldest != nullptr) {
    finding.evidence.push_back(request_evidence(*oldest));
    finding.details["oldest_request_ns"] = oldest->io.duration_ns;
    if (file == nullptr && !finding.details.contains("path")) {
      finding.summary += ": " + oldest->path;
      finding.details["path"] = oldest->path;
      finding.not_proved.clear();
      if (!waiting.empty()) finding.confidence = Confidence::proven;
    }
  }
  const timeline::NodeFile* look = latest_look(c, finding);
  const auto lines = look == nullptr ? std::vector<const timeline::KernelLine*>{}
                                     : connection_lines(c, *look, ten_seconds_before(c), c.until);
  const timeline::KernelLine* pool = look == nullptr ? nullptr : full_pool_line(c, *look);
  const Waits seen = !lines.empty()    ? Waits::lost_server
                     : pool != nullptr ? Waits::full_pool
                                       : Waits::storage;
  if (seen != waits && waits == Waits::storage)
    return against("storage-hang", pool != nullptr ? "a thin pool below has no room, and holds the requests"
                                                   : "the kernel's own client lost its server");
  if (seen != waits) return nothing();
  if (waits == Waits::lost_server) blame_connection(*look, lines, finding);
  if (waits == Waits::full_pool) blame_pool(*pool, finding);
  add_monitor_evidence(c, finding);
  if (waits == Waits::storage)
    finding.remedy.push_back(
        "mend the storage (server, path, a frozen file system: fsfreeze -u); the VM goes on by itself");
  finding.remedy.push_back("send the VM neither stop nor query-block: each would block its main loop");
  if (oldest == nullptr)
    finding.not_proved.push_back({"how old the oldest request is", why_no_call_under_way(c)});
  return found(std::move(finding));
}

}  // namespace

Opinion judge_storage_hang(const Case& c) {
  return judge_hang(c, Waits::storage);
}
Opinion judge_kernel_client_lost(const Case& c) {
  return judge_hang(c, Waits::lost_server);
}
Opinion judge_pool_queues(const Case& c) {
  return judge_hang(c, Waits::full_pool);
}

}  // namespace vmwhy::causes
