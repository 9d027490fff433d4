// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/targets.hpp"

#include <sys/stat.h>

#include <algorithm>

#include "clock/clock.hpp"
#include "core/text.hpp"
#include "qmp/client.hpp"

namespace vmwhy::qmp_pausewatch {
namespace {

constexpr std::uint64_t kEagerPause = 1'000'000'000;
constexpr std::uint64_t kSeldomPause = 30'000'000'000;
/// Nothing shows that somebody listens on a TCP port but trying it: each second at first, seldom later.
constexpr int kEagerAttempts = 60;

/// Only the user's own path is touched: QEMU's file system may hang, and discovery has looked at its file.
bool same_file(const qmp::MonitorSocket& monitor, const std::string& path) {
  struct stat fact;
  return monitor.inode != 0 && ::stat(path.c_str(), &fact) == 0 && fact.st_dev == monitor.device &&
         fact.st_ino == monitor.inode;
}

std::int64_t ctime_ns(const struct stat& fact) {
  return std::int64_t{fact.st_ctim.tv_sec} * 1'000'000'000 + fact.st_ctim.tv_nsec;
}

/// Of a Unix socket in the file system; empty for any other.
std::string file_of(const std::string& text) {
  const auto address = qmp::Address::parse(text);
  const bool file =
      address && address->kind == qmp::Address::Kind::unix_socket && !address->path.starts_with('@');
  return file ? address->path : std::string();
}

bool has_monitor(const qmp::QemuProcess& process, const std::string& text) {
  return std::any_of(process.monitors.begin(), process.monitors.end(),
                     [&](const qmp::MonitorSocket& monitor) { return is_monitor(monitor, text); });
}

}  // namespace

bool is_monitor(const qmp::MonitorSocket& monitor, const std::string& text) {
  if (monitor.address == text || (!monitor.reachable_path.empty() && monitor.reachable_path == text))
    return true;
  const std::string path = file_of(text);
  return !path.empty() && (monitor.reachable_path == path || same_file(monitor, path));
}

Targets::Targets(const Options& options) : options_(options) {
  for (const std::string& text : options.sockets) {
    Socket socket;
    socket.text = text;
    socket.path = file_of(text);
    sockets_.push_back(std::move(socket));
  }
  for (const std::string& name : options.names) wanted_.push_back({name, 0, false});
  for (const std::uint32_t pid : options.pids) wanted_.push_back({{}, pid, false});
}

bool Targets::is_there(const Socket& socket) {
  if (socket.path.empty()) return clock::now_ns() >= socket.not_before_ns;
  struct stat fact;
  if (::stat(socket.path.c_str(), &fact) != 0) return false;
  return fact.st_ino != socket.last_ino || ctime_ns(fact) != socket.last_ctime_ns;
}

bool Targets::sockets_came() const {
  return std::any_of(sockets_.begin(), sockets_.end(),
                     [](const Socket& socket) { return !socket.taken && is_there(socket); });
}

std::vector<Target> Targets::take(const std::vector<qmp::QemuProcess>& found) {
  std::vector<Target> out;
  const auto given = [&](const qmp::QemuProcess& process) {
    return std::find(given_.begin(), given_.end(), std::pair(process.pid, process.start_ns)) != given_.end();
  };
  for (Socket& socket : sockets_) {
    if (socket.taken || !is_there(socket)) continue;
    Target target;
    target.asked_for = socket.text;
    for (const qmp::QemuProcess& process : found)
      if (has_monitor(process, socket.text)) target.process = process;
    if (target.process.pid != 0 && given(target.process)) {
      socket.taken = true;  // Two monitors of one VM.
      continue;
    }
    socket.taken = true;
    if (target.process.pid != 0) given_.emplace_back(target.process.pid, target.process.start_ns);
    out.push_back(std::move(target));
  }
  for (const qmp::QemuProcess& process : found) {
    if (given(process)) continue;
    bool wanted = options_.all;
    for (Wanted& want : wanted_) {
      if (!want.means(process)) continue;
      want.taken = wanted = true;
      want.ended = false;
    }
    if (!wanted) continue;
    given_.emplace_back(process.pid, process.start_ns);
    out.push_back({process, std::nullopt});
  }
  return out;
}

void Targets::expect_again(const std::string& asked_for) {
  for (Socket& socket : sockets_) {
    if (socket.text != asked_for || !socket.taken) continue;
    socket.taken = false;
    ++socket.attempts;
    socket.not_before_ns = clock::now_ns() + (socket.attempts < kEagerAttempts ? kEagerPause : kSeldomPause);
    struct stat fact;
    if (socket.path.empty() || ::stat(socket.path.c_str(), &fact) != 0) continue;
    socket.last_ino = fact.st_ino;
    socket.last_ctime_ns = ctime_ns(fact);
  }
}

bool Targets::Wanted::means(const qmp::QemuProcess& process) const {
  if (pid != 0) return pid == process.pid;
  return name == process.name || name == process.uuid;
}

void Targets::ended(const qmp::QemuProcess& process) {
  for (Wanted& want : wanted_)
    if (want.pid == 0 && want.means(process)) want.ended = true;
}

std::vector<std::string> Targets::missing() const {
  std::vector<std::string> out;
  for (const Socket& socket : sockets_)
    if (!socket.taken)
      out.push_back(socket.text + ": " +
                    (socket.path.empty() ? "nobody listens there any more"
                                         : "no such socket; start QEMU with -qmp unix:" + socket.path +
                                               ",server=on,wait=off"));
  for (const Wanted& want : wanted_) {
    if (want.taken) continue;
    out.push_back(want.pid != 0
                      ? "pid " + std::to_string(want.pid) +
                            ": no QEMU process with this id; qmp-call --list shows those there are"
                      : want.name + ": no VM of this name or UUID; qmp-call --list shows those there are");
  }
  return out;
}

bool Targets::waits() const {
  return std::any_of(sockets_.begin(), sockets_.end(), [](const Socket& socket) { return !socket.taken; }) ||
         std::any_of(wanted_.begin(), wanted_.end(),
                     [](const Wanted& want) { return want.pid == 0 && (!want.taken || want.ended); });
}

}  // namespace vmwhy::qmp_pausewatch
