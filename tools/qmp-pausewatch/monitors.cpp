// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/monitors.hpp"

#include <unistd.h>

#include "tools/qmp-pausewatch/targets.hpp"

namespace vmwhy::qmp_pausewatch {
namespace {

/// A monitor that a management layer made for itself is left to it even where nobody is connected now: what
/// connects in its place keeps it out, when it restarts (libvirt) or with its next command (Proxmox).
bool is_managed(const qmp::MonitorSocket& monitor) {
  return monitor.address.find("/libvirt/qemu/") != std::string::npos ||
         monitor.address.find("/run/qemu-server/") != std::string::npos;
}

}  // namespace

std::string Monitors::named(const std::string& text) const {
  for (const qmp::MonitorSocket& monitor : process_.monitors)
    if (is_monitor(monitor, text)) return monitor.place();
  return text;
}

std::string Monitors::held_by(const std::string& place) const {
  for (const qmp::MonitorSocket& monitor : process_.monitors) {
    if (!monitor.held || monitor.held_by_pid == static_cast<std::uint32_t>(::getpid())) continue;
    if (place != monitor.address && place != monitor.reachable_path) continue;
    if (monitor.held_by_pid == 0) return kSomebody;
    return monitor.held_by_comm + " (pid " + std::to_string(monitor.held_by_pid) + ")";
  }
  return {};
}

void Monitors::note_holders() {
  for (const qmp::MonitorSocket& monitor : process_.monitors)
    if (const std::string holder = held_by(monitor.place()); !holder.empty())
      leave_to(monitor.place(), holder);
}

std::string Monitors::nobodys() const {
  for (const qmp::MonitorSocket& monitor : process_.monitors)
    if (!is_managed(monitor) && !monitor.folder_unknown && !is_of_another(monitor.place()))
      return monitor.place();
  return {};
}

std::string Monitors::why_none() const {
  if (!others_.empty()) return "its monitor is held by " + holder();
  for (const qmp::MonitorSocket& monitor : process_.monitors)
    if (is_managed(monitor)) return "its monitor " + monitor.place() + " is its manager's";
  for (const qmp::MonitorSocket& monitor : process_.monitors)
    if (monitor.folder_unknown) return monitor.why_unreachable();
  return "no QMP monitor of it can be found";
}

}  // namespace vmwhy::qmp_pausewatch
