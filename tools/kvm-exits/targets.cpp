// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-exits/targets.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <optional>

#include "core/text.hpp"
#include "qmp/discovery.hpp"

namespace vmwhy::kvm_exits {
namespace {

KnownVm known_of(const qmp::QemuProcess& process) {
  KnownVm known{process.name, {}, {}};
  for (const qmp::QemuThread& thread : process.threads)
    if (thread.vcpu >= 0) known.vcpu_by_tid[thread.tid] = thread.vcpu;
  return known;
}

std::optional<qmp::Address> address_of(const qmp::MonitorSocket& monitor) {
  const auto address = qmp::Address::parse(monitor.place());
  return address ? std::optional(*address) : std::nullopt;
}

// A monitor takes one client: one that somebody holds is not waited for.
void add(Targets& targets, const qmp::QemuProcess& process) {
  targets.known[process.pid] = known_of(process);
  for (const qmp::MonitorSocket& monitor : process.monitors)
    if (const auto address = address_of(monitor); address && !monitor.held && !monitor.folder_unknown)
      targets.monitors.try_emplace(process.pid, *address);
  targets.threads += process.threads.size();
}

bool same_file(const std::string& a, const std::string& b) {
  struct stat one {
  }, other{};
  return !a.empty() && !b.empty() && ::stat(a.c_str(), &one) == 0 && ::stat(b.c_str(), &other) == 0 &&
         one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

bool means(const qmp::Address& wanted, const qmp::MonitorSocket& monitor) {
  const auto address = address_of(monitor);
  if (!address) return false;
  return address->to_string() == wanted.to_string() || same_file(address->path, wanted.path);
}

Result<void> add_socket(Targets& targets, const std::vector<qmp::QemuProcess>& processes,
                        const std::string& text) {
  const auto wanted = qmp::Address::parse(text);
  if (!wanted) return Failure{{}, qmp::to_string(wanted.error()), ""};
  for (const qmp::QemuProcess& process : processes) {
    for (const qmp::MonitorSocket& monitor : process.monitors) {
      if (!means(*wanted, monitor)) continue;
      targets.pids.push_back(process.pid);
      add(targets, process);
      targets.monitors.insert_or_assign(process.pid, *wanted);
      return {};
    }
  }
  return Failure{
      {}, "no QEMU of this host has the QMP socket '" + printable(text) + "'", "see qmp-call --list"};
}

std::string list_names(const std::vector<qmp::QemuProcess>& processes) {
  std::string out;
  for (const qmp::QemuProcess& process : processes)
    if (!process.name.empty()) out += (out.empty() ? "" : ", ") + printable(process.name, 60);
  return out.empty() ? "no VM of this host has a name" : "there is: " + out;
}

}  // namespace

Result<Targets> find_targets(const Options& options) {
  Targets targets;
  for (const std::uint32_t pid : options.pids) {
    const auto process = qmp::inspect_qemu(pid);
    if (!process) return Failure{{}, to_string(process.error()), "see qmp-call --list"};
    targets.pids.push_back(pid);
    add(targets, *process);
  }
  if (options.names.empty() && options.sockets.empty() && !options.all) return targets;
  const std::vector<qmp::QemuProcess> processes = qmp::find_qemus();
  for (const std::string& name : options.names) {
    const auto found = std::find_if(processes.begin(), processes.end(), [&](const qmp::QemuProcess& process) {
      return process.name == name || (!process.uuid.empty() && process.uuid == name);
    });
    if (found == processes.end())
      return Failure{{}, "no VM '" + printable(name) + "' here", list_names(processes)};
    targets.pids.push_back(found->pid);
    add(targets, *found);
  }
  for (const std::string& socket : options.sockets)
    if (auto added = add_socket(targets, processes, socket); !added) return added.error();
  if (options.all)
    for (const qmp::QemuProcess& process : processes) add(targets, process);
  return targets;
}

void learn(Targets& targets, std::uint32_t pid) {
  if (targets.known.count(pid) != 0) return;
  const auto process = qmp::inspect_qemu(pid);
  if (process)
    add(targets, *process);
  else
    targets.known[pid] = {};
}

}  // namespace vmwhy::kvm_exits
