// SPDX-License-Identifier: BSD-2-Clause
#include "tap/peer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "core/text.hpp"
#include "host/process.hpp"
#include "qmp/proc_qemu.hpp"
#include "qmp/slow_jobs.hpp"
#include "tap/mask.hpp"

namespace vmwhy::tap {
namespace {

constexpr std::chrono::milliseconds kPatience{100};
constexpr std::size_t kMaxCommandLine = 4096;
constexpr int kMaxAncestors = 6;

// Not by getpwuid(3): it may ask a directory on another host.
std::string user_name(std::uint32_t uid) {
  const std::string passwd = host::read_or_empty("/etc/passwd", 1u << 20);
  const std::string wanted = std::to_string(uid);
  for (const std::string_view line : split(passwd, '\n')) {
    const auto fields = split(line, ':');
    if (fields.size() > 2 && fields[2] == wanted) return std::string(fields[0]);
  }
  return {};
}

// A process that is sick can block who reads its command line.
std::string command_line(std::uint32_t pid, const std::string& proc) {
  struct Shared {
    std::mutex mutex;
    std::string text;
  };
  const auto shared = std::make_shared<Shared>();
  const std::string path = proc + "/" + std::to_string(pid) + "/cmdline";
  qmp::run_slow_jobs({{path,
                       [shared, path] {
                         std::string text = host::read_or_empty(path, kMaxCommandLine);
                         const std::lock_guard lock(shared->mutex);
                         shared->text = std::move(text);
                       }}},
                     kPatience);
  const std::lock_guard lock(shared->mutex);
  std::string text = shared->text;
  while (!text.empty() && text.back() == '\0') text.pop_back();
  std::replace(text.begin(), text.end(), '\0', ' ');
  mask_text(text);
  return text;
}

std::string ancestors_of(std::uint32_t pid, const std::string& proc) {
  std::string out;
  for (int i = 0; i < kMaxAncestors; ++i) {
    const auto stat = host::parse_stat(host::read_or_empty(proc + "/" + std::to_string(pid) + "/stat"));
    if (!stat || stat->ppid == 0) break;
    pid = stat->ppid;
    if (pid == 1) break;  // Who reaps orphans says nothing.
    out += fmt::format("{}{} ({})", out.empty() ? "" : " ← ", host::comm_of(pid, proc), pid);
  }
  return out;
}

}  // namespace

std::string Peer::to_string() const {
  if (pid == 0) return "a client that cannot be told";
  return comm.empty() ? fmt::format("pid {} (gone)", pid) : fmt::format("{} ({})", comm, pid);
}

Peer look_at_peer(std::uint32_t pid, std::uint32_t uid, const std::string& proc) {
  Peer out;
  out.pid = pid;
  out.uid = uid;
  if (pid == 0) return out;
  out.user = user_name(uid);
  out.comm = host::comm_of(pid, proc);
  if (out.comm.empty()) return out;
  out.command_line = command_line(pid, proc);
  out.container = qmp::container_id(host::read_or_empty(proc + "/" + std::to_string(pid) + "/cgroup"));
  out.ancestors = ancestors_of(pid, proc);
  return out;
}

}  // namespace vmwhy::tap
