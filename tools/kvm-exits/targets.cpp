// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-exits/targets.hpp"

#include <algorithm>
#include <cerrno>

#include "core/text.hpp"
#include "qmp/discovery.hpp"

namespace vmwhy::kvm_exits {
namespace {

KnownVm known_of(const qmp::QemuProcess& process) {
  KnownVm known{process.name, {}};
  for (const qmp::QemuThread& thread : process.threads)
    if (thread.vcpu >= 0) known.vcpu_by_tid[thread.tid] = thread.vcpu;
  return known;
}

void add(Targets& targets, const qmp::QemuProcess& process) {
  targets.known[process.pid] = known_of(process);
  targets.threads += process.threads.size();
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
  if (options.names.empty() && !options.all) return targets;
  const std::vector<qmp::QemuProcess> processes = qmp::find_qemus();
  for (const std::string& name : options.names) {
    const auto found = std::find_if(processes.begin(), processes.end(), [&](const qmp::QemuProcess& process) {
      return process.name == name || (!process.uuid.empty() && process.uuid == name);
    });
    if (found == processes.end())
      return system_failure(ESRCH, "no VM '" + printable(name) + "' here", list_names(processes));
    targets.pids.push_back(found->pid);
    add(targets, *found);
  }
  if (options.all)
    for (const qmp::QemuProcess& process : processes) add(targets, process);
  return targets;
}

void learn(std::map<std::uint32_t, KnownVm>& known, std::uint32_t pid) {
  if (known.count(pid) != 0) return;
  const auto process = qmp::inspect_qemu(pid);
  known[pid] = process ? known_of(*process) : KnownVm{};
}

}  // namespace vmwhy::kvm_exits
