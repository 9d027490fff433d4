// SPDX-License-Identifier: BSD-2-Clause
#include "host/threads.hpp"

#include <dirent.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <memory>

#include "host/proc_file.hpp"
#include "host/process.hpp"
#include "trace/waits.hpp"

namespace vmwhy::host {
namespace {

std::vector<std::uint32_t> tids_of(std::uint32_t pid, const std::string& proc) {
  std::vector<std::uint32_t> tids;
  const std::string path = proc + "/" + std::to_string(pid) + "/task";
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(path.c_str()), &::closedir);
  if (!dir) return tids;
  while (const dirent* entry = ::readdir(dir.get()))
    if (const auto tid = parse_u64(entry->d_name)) tids.push_back(static_cast<std::uint32_t>(*tid));
  std::sort(tids.begin(), tids.end(), [pid](std::uint32_t a, std::uint32_t b) {
    return std::pair(a != pid, a) < std::pair(b != pid, b);
  });
  return tids;
}

std::string task_path(std::uint32_t pid, std::uint32_t tid, const std::string& proc) {
  return proc + "/" + std::to_string(pid) + "/task/" + std::to_string(tid) + "/";
}

struct Call {
  std::int32_t number = -2;
  std::int32_t fd = -1;  ///< The descriptor that it works on; -1: none that is known.
};

bool takes_file(std::int32_t number) {
  static constexpr long kCalls[] = {SYS_read,   SYS_write,  SYS_pread64,        SYS_pwrite64,  SYS_readv,
                                    SYS_writev, SYS_preadv, SYS_pwritev,        SYS_preadv2,   SYS_pwritev2,
                                    SYS_fsync,  SYS_fstat,  SYS_fdatasync,      SYS_fallocate, SYS_ftruncate,
                                    SYS_ioctl,  SYS_lseek,  SYS_copy_file_range};
  return std::find(std::begin(kCalls), std::end(kCalls), number) != std::end(kCalls);
}

/// "running", "-1 SP PC", or "NR 0xARGUMENT… SP PC".
Call call_of(const std::string& path) {
  const auto text = read_small_file(path, 512);
  if (!text || text->empty()) return {};
  const std::string_view view = *text;
  const std::size_t blank = view.find_first_of(" \n");
  const auto number = parse_u64(view.substr(0, blank));
  if (!number) return {-1, -1};
  Call call{static_cast<std::int32_t>(*number), -1};
  if (!takes_file(call.number) || blank == std::string_view::npos) return call;
  std::string_view argument = view.substr(blank + 1);
  argument = argument.substr(0, argument.find(' '));
  if (argument.starts_with("0x")) argument.remove_prefix(2);
  std::int32_t fd = -1;
  if (std::from_chars(argument.begin(), argument.end(), fd, 16).ec == std::errc()) call.fd = fd;
  return call;
}

/// By the descriptor's link: asks no file system.
std::string file_of(std::uint32_t pid, std::int32_t fd, const std::string& proc) {
  char path[4096];
  const std::string link = proc + "/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  const ssize_t length = fd < 0 ? -1 : ::readlink(link.c_str(), path, sizeof path);
  const std::string out(path, length > 0 ? static_cast<std::size_t>(length) : 0);
  return out.starts_with('/') ? out : std::string();
}

}  // namespace

std::vector<ThreadSample> sample_threads(std::uint32_t pid, const std::string& proc) {
  std::vector<ThreadSample> out;
  for (const std::uint32_t tid : tids_of(pid, proc)) {
    const std::string base = task_path(pid, tid, proc);
    const auto stat = parse_stat(read_or_empty(base + "stat", 1024));
    if (!stat) continue;
    out.push_back({tid, stat->state});
    if (stat->state == 'S')
      out.back().waits_for_fuse = trace::is_fuse_wait(read_or_empty(base + "wchan", 256));
  }
  return out;
}

trace::OwnedRecord thread_record(std::uint32_t pid, std::uint32_t tid, const Roles& roles,
                                 std::uint64_t time_ns, std::uint32_t vm, const std::string& proc) {
  const std::string base = task_path(pid, tid, proc);
  trace::ThreadState out{};
  out.pid = pid;
  out.tid = tid;
  out.vcpu = -1;
  if (tid == pid) out.role = static_cast<std::uint32_t>(trace::ThreadRole::main);
  if (const auto known = roles.find(tid); known != roles.end()) {
    out.role = static_cast<std::uint32_t>(known->second.role);
    out.vcpu = known->second.vcpu;
  }
  std::string comm;
  if (const auto stat = parse_stat(read_or_empty(base + "stat", 1024))) {
    comm = stat->comm;
    out.state = static_cast<unsigned char>(stat->state);
    out.cpu_ns = stat->cpu_ns;
  }
  const Call call = call_of(base + "syscall");
  out.syscall = call.number;
  // "on-cpu ns, runnable ns, timeslices": finer than stat's ticks, where the kernel keeps it.
  const std::string schedstat = read_or_empty(base + "schedstat", 128);
  if (const auto space = schedstat.find(' '); space != std::string::npos) {
    const std::string_view view = schedstat;
    out.cpu_ns = parse_u64(view.substr(0, space)).value_or(out.cpu_ns);
    const std::string_view rest = view.substr(space + 1);
    out.run_delay_ns = parse_u64(rest.substr(0, rest.find(' '))).value_or(0);
  }
  const std::string status = read_or_empty(base + "status");
  out.switches =
      number_of(status, "voluntary_ctxt_switches") + number_of(status, "nonvoluntary_ctxt_switches");
  std::string wchan = read_or_empty(base + "wchan", 256);
  if (wchan == "0") wchan.clear();
  const std::string stack = read_or_empty(base + "stack", 8192);
  return trace::make_record(time_ns, vm, out,
                            trace::join_text({comm, wchan, stack, file_of(pid, call.fd, proc)}));
}

std::vector<trace::OwnedRecord> thread_records(std::uint32_t pid, const Roles& roles, std::uint64_t time_ns,
                                               std::uint32_t vm, std::size_t limit, const std::string& proc) {
  std::vector<trace::OwnedRecord> out;
  for (const std::uint32_t tid : tids_of(pid, proc)) {
    if (out.size() >= limit) break;
    out.push_back(thread_record(pid, tid, roles, time_ns, vm, proc));
    if (out.back().fixed.empty()) out.pop_back();
  }
  return out;
}

}  // namespace vmwhy::host
