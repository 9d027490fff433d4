// SPDX-License-Identifier: BSD-2-Clause
#include "causes/rule.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <cstring>

#include "core/text.hpp"
#include "timeline/json_read.hpp"

namespace vmwhy::causes {

using timeline::text_of;

Opinion nothing() {
  return {};
}

Opinion against(std::string_view cause, std::string reason) {
  Opinion opinion;
  opinion.ruled_out.push_back({std::string(cause), std::move(reason)});
  return opinion;
}

Opinion found(Finding finding) {
  Opinion opinion;
  opinion.found = std::move(finding);
  return opinion;
}

std::string describe(const timeline::QmpEvent& event) {
  if (event.name == "BLOCK_IO_ERROR") {
    std::string node = text_of(event.data, "node-name", 128);
    const std::string device = text_of(event.data, "device", 128);
    if (node.empty() || (!device.empty() && node.front() == '#')) node = device;
    const boost::json::value* nospace = event.data.if_contains("nospace");
    return fmt::format("BLOCK_IO_ERROR: {} on node '{}' failed: {} (nospace: {}, action: {})",
                       text_of(event.data, "operation", 16), node, text_of(event.data, "reason", 256),
                       nospace == nullptr                         ? "not said"
                       : timeline::bool_of(event.data, "nospace") ? "true"
                                                                  : "false",
                       text_of(event.data, "action", 16));
  }
  if (event.data.empty()) return event.name;
  std::string data = boost::json::serialize(event.data);
  if (data.size() > 300) data = data.substr(0, 300) + "…";
  return event.name + " " + data;
}

Evidence qmp_evidence(const timeline::QmpEvent& event) {
  return {event.time_ns, "qmp", describe(event)};
}

Evidence file_evidence(const timeline::NodeFile& file) {
  const trace::NodeFile& f = file.file;
  std::string text = fmt::format("node '{}': {}", file.node, file.path);
  if (f.flags & trace::kNodeUnreachable) {
    text += fmt::format(" did not answer within {}", human_duration(static_cast<std::int64_t>(f.waited_ns)));
    return {file.time_ns, "reach", text};
  }
  if (f.flags & trace::kNodeDeleted) text += " (deleted)";
  if (f.flags & trace::kNodePathMissing) text += " (the path names nothing now)";
  if (S_ISBLK(f.mode)) {
    text += fmt::format(": block device {}:{}", major(f.rdev), minor(f.rdev));
    text += f.flags & trace::kNodeSysMissing ? ", which the kernel no longer has"
                                             : fmt::format(", size {}", human_bytes(f.size_bytes));
    if ((f.flags & trace::kNodePathDiffers) && f.path_rdev != 0)
      text += fmt::format("; the path names {}:{} now", major(f.path_rdev), minor(f.path_rdev));
  } else if (f.fs_size_bytes != 0 || f.fs_magic != 0) {
    text += fmt::format(" on {} {}: {} free of {}", file.fs_type, file.mount, human_bytes(f.fs_free_bytes),
                        human_bytes(f.fs_size_bytes));
    if (f.fs_avail_bytes != f.fs_free_bytes)
      text += fmt::format(" ({} for unprivileged users)", human_bytes(f.fs_avail_bytes));
    if (f.fs_files != 0) text += fmt::format(", {} of {} inodes free", f.fs_files_free, f.fs_files);
    if (f.flags & trace::kNodeReadOnlyFs) text += ", read-only";
    if (f.flags & trace::kNodePathDiffers) text += "; the path names another file now";
  }
  if (f.flags & trace::kNodeNoFd) text += "; by its path, for QEMU has no descriptor of it";
  return {file.time_ns, "proc", text};
}

Evidence kernel_evidence(const timeline::KernelLine& line) {
  return {line.time_ns, "kmsg", line.text};
}

std::string errno_name(int error) {
  const char* name = strerrorname_np(error);
  return name != nullptr ? name : fmt::format("errno {}", error);
}

Evidence request_evidence(const timeline::IoRequest& request) {
  const trace::IoSyscall& io = request.io;
  std::string text = request.call.empty() ? "request" : request.call;
  if (io.fd >= 0) text += fmt::format(" on descriptor {}", io.fd);
  if (!request.path.empty()) text += fmt::format(" ({})", request.path);
  if (io.operation != static_cast<std::uint32_t>(trace::IoOperation::flush)) {
    text += fmt::format(" at offset {}", io.offset);
    if (io.length != UINT64_MAX) text += fmt::format(", {} bytes", io.length);
  }
  text += fmt::format(", by thread {}", io.tid);
  const std::string took = human_duration(static_cast<std::int64_t>(io.duration_ns));
  switch (static_cast<trace::IoWhat>(io.what)) {
    case trace::IoWhat::failed: {
      const char* meaning = strerrordesc_np(request.error());
      text += fmt::format(": failed with {}{}", errno_name(request.error()),
                          meaning != nullptr ? fmt::format(" ({})", meaning) : std::string());
      break;
    }
    case trace::IoWhat::short_:
      text += fmt::format(": {} bytes were done", io.result);
      break;
    case trace::IoWhat::slow:
      text += fmt::format(": took {}", took);
      break;
    case trace::IoWhat::under_way:
      text += fmt::format(": has not ended after {}", took);
      break;
  }
  return {request.time_ns, "syscall", text};
}

Evidence block_evidence(const timeline::BlockFailure& failure) {
  static constexpr const char* kOperations[] = {"request", "read",    "write",        "flush",
                                                "request", "discard", "write-zeroes", "request"};
  const trace::IoBlock& io = failure.io;
  std::string text =
      fmt::format("{} of disk {}, sector {}, {} bytes: failed",
                  kOperations[io.operation < 8 ? io.operation : 0], failure.disk, io.sector, io.length);
  if (!failure.status.empty()) text += fmt::format(": {} error", failure.status);
  text += fmt::format(" ({})", errno_name(static_cast<int>(io.error)));
  return {failure.time_ns, "block", text};
}

Evidence thread_evidence(const timeline::Thread& thread) {
  std::string role = "thread";
  switch (static_cast<trace::ThreadRole>(thread.state.role)) {
    case trace::ThreadRole::main:
      role = "main thread";
      break;
    case trace::ThreadRole::vcpu:
      role = fmt::format("vCPU {} thread", thread.state.vcpu);
      break;
    case trace::ThreadRole::iothread:
      role = "I/O thread";
      break;
    case trace::ThreadRole::other:
      break;
  }
  const unsigned letter = thread.state.state;
  std::string text =
      fmt::format("{} {} ({}) is in {}", role, thread.state.tid, thread.comm,
                  letter > 32 && letter < 127 ? std::string(1, static_cast<char>(letter)) : "?");
  if (!thread.wchan.empty() && thread.wchan != "0") text += ", in " + thread.wchan;
  if (!thread.file.empty()) text += ", by a system call on " + thread.file;
  if (!thread.stack.empty()) {
    std::string top;
    std::size_t lines = 0;
    for (std::string_view line : split(thread.stack, '\n')) {
      // "[<0>] do_signal_stop+0x16f/0x210": the function's name is what tells.
      const std::size_t bracket = line.find("] ");
      if (bracket != std::string_view::npos) line.remove_prefix(bracket + 2);
      line = trim(line.substr(0, line.find('+')));
      if (line.empty() || ++lines > 5) continue;
      top += (top.empty() ? "" : " < ") + std::string(line);
    }
    text += ": " + top;
  }
  return {thread.time_ns, "proc", text};
}

Evidence log_evidence(const timeline::Log& log, std::string_view line) {
  return {log.time_ns, "proc", fmt::format("QEMU's stderr ({}): {}", log.path, line)};
}

std::vector<std::string> lines_with(std::string_view text, std::string_view needle, std::size_t limit) {
  std::vector<std::string> lines;
  for (std::string_view line : split(text, '\n')) {
    if (lines.size() >= limit) break;
    if (contains(line, needle)) lines.emplace_back(trim(line));
  }
  return lines;
}

std::vector<std::string> last_lines(std::string_view text, std::size_t count) {
  std::vector<std::string> lines;
  for (std::string_view line : split(text, '\n'))
    if (!trim(line).empty()) lines.emplace_back(trim(line));
  if (lines.size() > count) lines.erase(lines.begin(), lines.end() - static_cast<std::ptrdiff_t>(count));
  return lines;
}

bool contains(std::string_view text, std::string_view needle) {
  return text.find(needle) != std::string_view::npos;
}

bool contains_word(std::string_view text, std::string_view word) {
  auto part = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_'; };
  if (word.empty()) return false;
  for (std::size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if ((at == 0 || !part(text[at - 1])) && (end == text.size() || !part(text[end]))) return true;
  }
  return false;
}

std::string monitor_of(const timeline::VmTracks& vm) {
  for (const auto& [number, link] : vm.links)
    if (!link.address.empty()) return link.address;
  return vm.monitors.empty() ? std::string() : vm.monitors.front().address;
}

std::string qmp_call(const Case& c, std::string_view command) {
  const bool own = std::any_of(c.vm.links.begin(), c.vm.links.end(), [](const auto& entry) {
    return entry.first < trace::kFirstHeardLink && !entry.second.address.empty();
  });
  if (!own && (c.vm.owner == "libvirt" || c.vm.owner == "kubevirt")) {
    const bool plain =
        !c.vm.name.empty() && std::all_of(c.vm.name.begin(), c.vm.name.end(), [](unsigned char byte) {
          return std::isalnum(byte) != 0 || byte == '-' || byte == '_' || byte == '.';
        });
    const std::string domain = plain ? c.vm.name : "DOMAIN";
    if (command == "cont") return "virsh resume " + domain;
    if (command == "system_reset") return "virsh reset " + domain;
    return fmt::format("virsh qemu-monitor-command {} --hmp {}", domain, command);
  }
  if (!own && !c.vm.peers.empty())
    return fmt::format("{}, sent by the client that holds its monitor", command);
  const std::string monitor = monitor_of(c.vm);
  return fmt::format("qmp-call -s {} {}", monitor.empty() ? "SOCKET" : monitor, command);
}

}  // namespace vmwhy::causes
