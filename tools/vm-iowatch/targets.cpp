// SPDX-License-Identifier: BSD-2-Clause
#include "tools/vm-iowatch/targets.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/text.hpp"
#include "qmp/client.hpp"

namespace vmwhy::vm_iowatch {
namespace {

bool same_file(const std::string& a, const std::string& b) {
  struct stat one {
  }, two{};
  return ::stat(a.c_str(), &one) == 0 && ::stat(b.c_str(), &two) == 0 && one.st_dev == two.st_dev &&
         one.st_ino == two.st_ino;
}

bool is_monitor(const qmp::MonitorSocket& monitor, const std::string& text) {
  const auto asked = qmp::Address::parse(text), own = qmp::Address::parse(monitor.address);
  if (!asked) return false;
  if (own && own->to_string() == asked->to_string()) return true;
  return asked->kind == qmp::Address::Kind::unix_socket && !monitor.reachable_path.empty() &&
         (monitor.reachable_path == asked->path || same_file(monitor.reachable_path, asked->path));
}

/// The monitor that `asked` names, or the first that nobody holds: a held one is not queued for.
Target target_of(const qmp::QemuProcess& process, const std::string& asked) {
  Target target{process, "", "no QMP monitor of it can be found"};
  for (const qmp::MonitorSocket& monitor : process.monitors) {
    if (!asked.empty() && !is_monitor(monitor, asked)) continue;
    if (monitor.held && monitor.held_by_pid != static_cast<std::uint32_t>(::getpid())) {
      target.no_monitor = "its monitor is held by " + printable(monitor.held_by_comm) + " (pid " +
                          std::to_string(monitor.held_by_pid) + "): give QEMU another -qmp socket";
      continue;
    }
    if (monitor.folder_unknown) {
      target.no_monitor = monitor.why_unreachable();
      continue;
    }
    target.monitor = monitor.place();
    target.no_monitor.clear();
    break;
  }
  return target;
}

std::string names_of(const std::vector<qmp::QemuProcess>& processes) {
  std::string out;
  for (const qmp::QemuProcess& process : processes)
    if (!process.name.empty()) out += (out.empty() ? "" : ", ") + printable(process.name, 60);
  return out.empty() ? "no VM of this host has a name" : "there is: " + out;
}

}  // namespace

Result<std::vector<Target>> find_targets(const Options& options) {
  std::vector<Target> targets;
  for (const std::uint32_t pid : options.pids) {
    const auto process = qmp::inspect_qemu(pid);
    if (!process) return Failure{{}, to_string(process.error()), "see qmp-call --list"};
    targets.push_back(target_of(*process, ""));
  }
  if (options.names.empty() && options.sockets.empty() && !options.all) return targets;
  const std::vector<qmp::QemuProcess> found = qmp::find_qemus();
  if (options.all)
    for (const qmp::QemuProcess& process : found) targets.push_back(target_of(process, ""));
  for (const std::string& name : options.names) {
    const auto at = std::find_if(found.begin(), found.end(), [&](const qmp::QemuProcess& process) {
      return process.name == name || (!process.uuid.empty() && process.uuid == name);
    });
    if (at == found.end())
      return system_failure(ESRCH, "no VM '" + printable(name) + "' here", names_of(found));
    targets.push_back(target_of(*at, ""));
  }
  for (const std::string& socket : options.sockets) {
    const auto at = std::find_if(found.begin(), found.end(), [&](const qmp::QemuProcess& process) {
      return std::any_of(process.monitors.begin(), process.monitors.end(),
                         [&](const qmp::MonitorSocket& monitor) { return is_monitor(monitor, socket); });
    });
    if (at == found.end())
      return system_failure(ESRCH, "no QEMU of this host has the monitor " + printable(socket),
                            "qmp-call --list shows the monitors of this host");
    targets.push_back(target_of(*at, socket));
  }
  return targets;
}

}  // namespace vmwhy::vm_iowatch
