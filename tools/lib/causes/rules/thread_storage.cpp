// SPDX-License-Identifier: BSD-2-Clause
// Threads that did not get on because they waited within the kernel's storage: vCPUs, iothreads, workers.
// Where the main thread itself did, its loop is what is blocked.
#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "causes/rules/rules.hpp"
#include "causes/rules/storage_common.hpp"
#include "causes/rules/threads.hpp"
#include "core/text.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {
namespace {

using stalls::State;
using timeline::IoRequest;

constexpr std::size_t kEvidence = 5;
/// A stall that lasts is a request that hangs from here on.
constexpr std::uint64_t kHangs = timeline::kSecond;

bool is_main(const stalls::Stall& stall) {
  return stall.record.role == static_cast<std::uint32_t>(trace::ThreadRole::main);
}

/// It slept most of the time, and within storage.
bool stood_in_storage(const stalls::Stall& stall) {
  const std::uint64_t slept = saturated(stall.times[static_cast<std::size_t>(State::disk)],
                                        stall.times[static_cast<std::size_t>(State::blocked)]);
  if (slept < stall.record.length_ns / 2) return false;
  // A lock of memory that another thread holds is waited for in the same way as one of a file.
  const auto storage = [](std::string_view function) {
    return in_storage(function) && !contains(function, "rwsem_down");
  };
  return storage(stall.wchan) || std::any_of(stall.kernel_stack.begin(), stall.kernel_stack.end(),
                                             [&](const std::string& frame) { return storage(frame); });
}

/// The system call that it stood in is a request to a file.
bool asks_a_file(const stalls::Stall& stall) {
  static constexpr std::string_view kCalls[] = {
      "read",      "write",     "pread64",         "pwrite64",       "readv", "writev",
      "preadv",    "pwritev",   "preadv2",         "pwritev2",       "fsync", "fdatasync",
      "fallocate", "ftruncate", "sync_file_range", "copy_file_range"};
  return !stall.descriptor.empty() && stall.descriptor.front() == '/' &&
         std::find(std::begin(kCalls), std::end(kCalls), stall.call) != std::end(kCalls);
}

/// A slow or pending request of the VM in the time of the stall; the thread's own first.
const IoRequest* request_of(const Case& c, const stalls::Stall& stall) {
  const IoRequest* out = nullptr;
  for (const IoRequest& request : c.vm.requests) {
    if (request.io.what != static_cast<std::uint32_t>(trace::IoWhat::slow) &&
        request.io.what != static_cast<std::uint32_t>(trace::IoWhat::under_way))
      continue;
    const std::uint64_t began = request.time_ns - std::min(request.time_ns, request.io.duration_ns);
    if (began > stall.end_ns || request.time_ns < stall.begin_ns()) continue;
    if (request.io.tid == stall.record.tid) return &request;
    if (out == nullptr) out = &request;
  }
  return out;
}

void name_file(const stalls::Stall& stall, const IoRequest* request, Finding& finding) {
  const bool own = request != nullptr && request->io.tid == stall.record.tid;
  if (asks_a_file(stall)) {
    finding.confidence = Confidence::proven;
    finding.details["path"] = printable(stall.descriptor, 1024);
  } else if (own) {
    finding.confidence = Confidence::proven;
    finding.details["path"] = printable(request->path, 1024);
  } else if (request != nullptr) {
    finding.details["path"] = printable(request->path, 1024);
    finding.not_proved.push_back(
        {"that it waited for this request", "another thread of the VM made it, in the same time"});
  } else {
    finding.not_proved.push_back({"which file it waited for", "its system call names none"});
  }
}

Opinion judge(const Case& c, bool hang) {
  if (c.incident.topic != timeline::Topic::thread_blocked) return nothing();
  const ThreadStalls threads = thread_stalls_of(c);
  if (std::any_of(threads.list.begin(), threads.list.end(),
                  [](const stalls::Stall& stall) { return is_main(stall) && stood_in_storage(stall); }))
    return nothing();
  const auto stood = std::find_if(threads.list.begin(), threads.list.end(), stood_in_storage);
  if (stood == threads.list.end()) return nothing();
  if (hang != (stood->ongoing() && stood->record.length_ns >= kHangs)) return nothing();
  Finding finding;
  finding.confidence = Confidence::likely;
  finding.summary = hang ? "a request to the storage does not come back: " : "waited for the storage: ";
  finding.summary += stalls::sentence(*stood);
  finding.details["thread"] = stood->record.tid;
  if (!stood->call.empty()) finding.details["system_call"] = printable(stood->call, 64);
  if (!stood->wchan.empty()) finding.details["wchan"] = printable(stood->wchan, 128);
  finding.details["stalls"] = threads.list.size();
  finding.details["longest_ns"] = stood->record.length_ns;
  const IoRequest* request = request_of(c, *stood);
  name_file(*stood, request, finding);
  for (std::size_t i = 0; i < threads.list.size() && i < kEvidence; ++i)
    finding.evidence.push_back(stall_evidence(threads.list[i]));
  add_stack(*stood, finding.evidence);
  if (request != nullptr) finding.evidence.push_back(request_evidence(*request));
  if (hang)
    finding.remedy.emplace_back("mend the storage; the VM goes on by itself");
  else
    finding.remedy.push_back(fmt::format("see where the time goes: vm-iowatch -p {}", c.vm.pid));
  return found(std::move(finding));
}

}  // namespace

Opinion judge_thread_in_storage_hangs(const Case& c) {
  return judge(c, true);
}
Opinion judge_thread_in_storage_waited(const Case& c) {
  return judge(c, false);
}

}  // namespace vmwhy::causes
