// SPDX-License-Identifier: BSD-2-Clause
// From QEMU's error down: which system call it came from, and which request of the block layer. A call is
// taken for the error's only if file, operation and errno agree; where two errors cannot be told apart, the
// first one is the cause.
#include <algorithm>
#include <cstring>

#include "causes/case.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {
namespace {

using timeline::IoRequest;
using trace::IoOperation;

/// A busy host tells QEMU's main loop late of what its threads came to.
constexpr std::uint64_t kBefore = 2 * timeline::kSecond;
/// How far the conversion of QEMU's stamp may be off.
constexpr std::uint64_t kAfter = timeline::kSecond / 50;

bool is_to(const IoRequest& request, const timeline::NodeFile& file) {
  if (request.io.rdev != 0 || file.file.rdev != 0) return request.io.rdev == file.file.rdev;
  if (request.io.ino != 0 && file.file.ino != 0 && request.io.dev == file.file.dev)
    return request.io.ino == file.file.ino;
  // Where a file system shows numbers of its own: by the descriptor.
  return request.io.fd >= 0 && (file.file.flags & trace::kNodeNoFd) == 0 &&
         static_cast<std::uint32_t>(request.io.fd) == file.file.fd;
}

/// QEMU's sentence, where it is one that strerror makes, and its flag must not speak against the errno.
bool says(const StorageFacts& facts, int error) {
  if (facts.nospace_said && facts.nospace != (error == ENOSPC)) return false;
  const char* own = strerrordesc_np(error);
  if (facts.reason.empty() || own == nullptr || facts.reason == own) return true;
  for (int other = 1; other < 134; ++other) {
    const char* text = strerrordesc_np(other);
    if (text != nullptr && facts.reason == text) return false;
  }
  return true;  // Another language.
}

bool operation_fits(const StorageFacts& facts, const IoRequest& request) {
  return facts.operation.empty() || request.is(IoOperation::read) == (facts.operation == "read");
}

/// "sda" is under "sda" and "sda3", "nvme0n1" under "nvme0n1p2".
bool is_under(std::string_view disk, std::string_view device) {
  if (disk.empty() || device.substr(0, disk.size()) != disk) return false;
  std::string_view rest = device.substr(disk.size());
  if (rest.empty()) return true;
  const bool number = disk.back() >= '0' && disk.back() <= '9';
  if (number && rest.front() != 'p') return false;
  if (number) rest.remove_prefix(1);
  return !rest.empty() && std::all_of(rest.begin(), rest.end(), [](char c) { return c >= '0' && c <= '9'; });
}

void find_block(const Case& c, StorageFacts& facts, std::uint64_t from, std::uint64_t until) {
  for (const timeline::BlockFailure& failure : c.timeline.host().block_failures) {
    if (failure.time_ns < from || failure.time_ns > until) continue;
    const bool under = std::any_of(facts.devices.begin(), facts.devices.end(),
                                   [&](const std::string& device) { return is_under(failure.disk, device); });
    const bool same = facts.file->file.rdev != 0 && failure.io.dev == facts.file->file.rdev;
    if (!under && !same) continue;
    facts.block = &failure;
    return;
  }
}

/// The earliest time at which what led to the error that was told then can have failed.
std::uint64_t earliest(const Case& c, std::uint64_t told) {
  const std::uint64_t from = told - std::min(told, kBefore);
  // What failed before the last cont has paused it once already.
  const timeline::QmpEvent* resumed = c.vm.last_event("RESUME", from, told);
  return resumed == nullptr ? from
                            : std::max(from, resumed->time_ns - std::min(resumed->time_ns, kAfter / 4));
}

}  // namespace

void find_requests(const Case& c, StorageFacts& facts) {
  if (facts.error == nullptr || facts.file == nullptr) return;
  const std::uint64_t told = facts.error->time_ns, from = earliest(c, told);
  const std::uint64_t until = told + kAfter;
  find_block(c, facts, from, until);
  for (const IoRequest& request : c.vm.requests) {
    if (request.time_ns < from || !is_to(request, *facts.file)) continue;
    if (request.failed() && request.time_ns <= std::max(c.until, until)) ++facts.kernel_failures;
    if (request.time_ns > until || !operation_fits(facts, request)) continue;
    const bool cut = request.io.what == static_cast<std::uint32_t>(trace::IoWhat::short_);
    if (cut && facts.short_write == nullptr && request.is(IoOperation::write)) facts.short_write = &request;
    if (facts.request == nullptr && request.error() != 0 && says(facts, request.error()))
      facts.request = &request;
  }
  if (facts.request != nullptr) facts.kernel_failures += c.vm.requests.dropped();
}

namespace {

/// The names that QEMU put into the event it made of this error; null: not seen.
const std::vector<std::string>* names_of(const timeline::VmTracks& vm, const timeline::QemuCall& error) {
  for (const timeline::QemuCall& call : vm.block_calls) {
    if (call.time_ns < error.time_ns || call.tid != error.tid || &call == &error) continue;
    return call.function == "qapi_event_send_block_io_error" && !call.strings.empty() ? &call.strings
                                                                                      : nullptr;
  }
  return nullptr;
}

/// blk_error_action(blk, action, is_read, error) of this node and operation.
bool is_same_error(const Case& c, const StorageFacts& facts, const timeline::QemuCall& call) {
  if (call.function != "blk_error_action") return false;
  const bool read = (call.arguments[2] & 1) != 0;
  if (!facts.operation.empty() && read != (facts.operation == "read")) return false;
  if (call.value.starts_with("stop") == (c.incident.topic == timeline::Topic::io_reported)) return false;
  const auto* names = names_of(c.vm, call);
  return names == nullptr || std::find(names->begin(), names->end(), facts.node) != names->end();
}

int errno_of(const timeline::QemuCall& call) {
  return static_cast<int>(static_cast<std::int32_t>(call.arguments[3]));
}

}  // namespace

int StorageFacts::known_error() const {
  // An errno that QEMU's own driver makes up tells nothing of the host.
  const bool by_host = in_qemu != nullptr && !injected;
  return request == nullptr && by_host ? errno_of(*in_qemu) : error_number();
}

void find_in_qemu(const Case& c, StorageFacts& facts) {
  if (facts.error == nullptr) return;
  const std::uint64_t told = facts.error->time_ns, from = earliest(c, told);
  for (const timeline::QemuCall& call : c.vm.block_calls) {
    if (call.time_ns < from || call.time_ns > std::max(c.until, told + kAfter)) continue;
    if (!is_same_error(c, facts, call) || !says(facts, errno_of(call))) continue;
    if (facts.in_qemu == nullptr && call.time_ns > told + kAfter) return;
    if (facts.in_qemu == nullptr) facts.in_qemu = &call;
    ++facts.qemu_errors;
  }
  if (facts.in_qemu != nullptr)
    facts.qemu_errors += c.vm.block_calls.dropped() / 2;  // Each error is two calls.
}

}  // namespace vmwhy::causes
