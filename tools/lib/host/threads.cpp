// SPDX-License-Identifier: BSD-2-Clause
#include "host/threads.hpp"

#include <dirent.h>

#include <algorithm>
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

/// "running", "-1 SP PC", or "NR args… SP PC".
std::int32_t syscall_of(const std::string& path) {
  const auto text = read_small_file(path, 512);
  if (!text || text->empty()) return -2;
  const std::string_view first = std::string_view(*text).substr(0, text->find_first_of(" \n"));
  const auto number = parse_u64(first);
  return number ? static_cast<std::int32_t>(*number) : -1;
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
  out.syscall = syscall_of(base + "syscall");
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
  return trace::make_record(time_ns, vm, out, trace::join_text({comm, wchan, stack}));
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
