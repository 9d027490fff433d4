// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/discovery.hpp"

#include <boost/json/array.hpp>
#include <cerrno>
#include <iterator>
#include <memory>
#include <set>

#include "qmp/proc_qemu.hpp"
#include "qmp/slow_jobs.hpp"
#include "qmp/unix_sockets.hpp"

namespace vmwhy::qmp {
namespace {

namespace json = boost::json;

constexpr std::chrono::milliseconds kOwnersBudget{200};

// Everything that a job touches, owned by it: it may outlive the call.
struct JobState {
  std::string proc;
  ProcBasics basics;
  std::shared_ptr<NetUnixCache> cache;
  ProcFindings findings;
};

std::shared_ptr<JobState> make_state(const std::string& proc, ProcBasics basics,
                                     const std::shared_ptr<NetUnixCache>& cache) {
  auto state = std::make_shared<JobState>();
  state->proc = proc;
  state->cache = cache;
  QemuProcess& process = state->findings.process;
  process.pid = basics.pid;
  process.start_ns = basics.start_ns;
  process.uid = basics.uid;
  process.comm = basics.comm;
  process.executable = basics.executable;
  process.unreadable = true;  // until the command line has come
  state->basics = std::move(basics);
  return state;
}

struct Found {
  QemuProcess process;
  std::vector<std::vector<std::uint32_t>> accepted;
  bool own_network = false;
};

Found take(JobState& state) {
  const std::lock_guard lock(state.findings.mutex);
  return {state.findings.process, state.findings.accepted, state.findings.own_network};
}

// The peers of accepted monitor connections, and whose they are.
void name_holders(std::vector<Found>& all) {
  std::set<std::uint32_t> accepted;
  for (const Found& found : all)
    if (found.own_network)
      for (const auto& inodes : found.accepted) accepted.insert(inodes.begin(), inodes.end());
  if (accepted.empty()) return;
  std::map<std::uint32_t, std::uint32_t> peers;
  std::set<std::uint32_t> wanted;
  for (const UnixSocket& socket : dump_unix_sockets()) {
    if (socket.peer_inode == 0 || accepted.count(socket.inode) == 0) continue;
    peers[socket.inode] = socket.peer_inode;
    wanted.insert(socket.peer_inode);
  }
  const auto owners = find_socket_owners(wanted, kOwnersBudget);
  for (Found& found : all) {
    for (std::size_t i = 0; i < found.process.monitors.size() && i < found.accepted.size(); ++i) {
      for (const std::uint32_t inode : found.accepted[i]) {
        const auto peer = peers.find(inode);
        const auto owner = peer == peers.end() ? owners.end() : owners.find(peer->second);
        if (owner == owners.end()) continue;
        found.process.monitors[i].held_by_pid = owner->second;
        found.process.monitors[i].held_by_comm = comm_of(owner->second);
      }
    }
  }
}

std::vector<QemuProcess> inspect_all(std::vector<ProcBasics> processes, const DiscoveryOptions& options) {
  const auto cache = std::make_shared<NetUnixCache>();
  std::vector<std::shared_ptr<JobState>> states;
  std::vector<SlowJob> jobs;
  for (ProcBasics& basics : processes) {
    auto state = make_state(options.proc, std::move(basics), cache);
    std::string key =
        options.proc + "/" + std::to_string(state->basics.pid) + "@" + std::to_string(state->basics.start_ns);
    jobs.push_back({std::move(key), [state] {
                      inspect_process(state->proc, state->basics, *state->cache, state->findings);
                    }});
    states.push_back(std::move(state));
  }
  run_slow_jobs(jobs, options.deadline);
  std::vector<Found> all;
  all.reserve(states.size());
  for (const auto& state : states) all.push_back(take(*state));
  if (options.proc == "/proc") name_holders(all);
  std::vector<QemuProcess> out;
  out.reserve(all.size());
  for (Found& found : all) out.push_back(std::move(found.process));
  return out;
}

std::vector<ProcBasics> list_qemus(const DiscoveryOptions& options) {
  std::vector<ProcBasics> out;
  for (const std::uint32_t pid : list_pids(options.proc)) {
    auto basics = read_basics(options.proc, pid);
    if (basics && basics->is_qemu) out.push_back(std::move(*basics));
  }
  return out;
}

}  // namespace

std::string_view to_string(Owner owner) {
  switch (owner) {
    case Owner::plain:
      return "plain";
    case Owner::libvirt:
      return "libvirt";
    case Owner::proxmox:
      return "proxmox";
    case Owner::kubevirt:
      return "kubevirt";
    case Owner::container:
      return "container";
  }
  return "plain";
}

std::vector<QemuProcess> find_qemus(const DiscoveryOptions& options) {
  return inspect_all(list_qemus(options), options);
}

Result<QemuProcess> inspect_qemu(std::uint32_t pid, const DiscoveryOptions& options) {
  auto basics = read_basics(options.proc, pid);
  const std::string name = "process " + std::to_string(pid);
  if (!basics) return Failure{make_error_code(Errc::no_socket), name + " does not exist", {}, {}};
  if (!basics->is_qemu)
    return Failure{make_error_code(Errc::no_socket),
                   name + " is no QEMU (its executable is \"" +
                       (basics->executable.empty() ? basics->comm : basics->executable) + "\")",
                   {},
                   {}};
  return inspect_all({std::move(*basics)}, options).front();
}

std::vector<std::pair<std::uint32_t, std::uint64_t>> list_qemu_pids(const DiscoveryOptions& options) {
  std::vector<std::pair<std::uint32_t, std::uint64_t>> out;
  for (const ProcBasics& basics : list_qemus(options)) out.emplace_back(basics.pid, basics.start_ns);
  return out;
}

std::string MonitorSocket::why_unreachable() const {
  if (!folder_unknown) return {};
  return "its monitor '" + address +
         "' is named relative to QEMU's working folder, which only root and QEMU's own user may see: "
         "give its whole path with -s";
}

json::object to_json(const QemuProcess& process) {
  json::array monitors;
  for (const MonitorSocket& monitor : process.monitors)
    monitors.push_back({{"address", monitor.address},
                        {"reachable_path", monitor.reachable_path},
                        {"held", monitor.held},
                        {"held_by_pid", monitor.held_by_pid},
                        {"held_by_comm", monitor.held_by_comm}});
  json::array threads;
  for (const QemuThread& thread : process.threads)
    threads.push_back({{"tid", thread.tid}, {"comm", thread.comm}, {"vcpu", thread.vcpu}});
  json::array disks;
  for (const CommandLineDisk& disk : process.disks)
    disks.push_back({{"node", disk.node}, {"path", disk.path}});
  json::object out;
  out["pid"] = process.pid;
  out["start_ns"] = process.start_ns;
  out["uid"] = process.uid;
  out["comm"] = process.comm;
  out["executable"] = process.executable;
  out["name"] = process.name;
  out["uuid"] = process.uuid;
  out["accelerator"] = process.accelerator;
  out["machine"] = process.machine;
  out["owner"] = to_string(process.owner);
  out["owner_detail"] = process.owner_detail;
  out["monitors"] = std::move(monitors);
  out["threads"] = std::move(threads);
  out["disks"] = std::move(disks);
  out["log_file"] = process.log_file;
  out["has_secrets"] = process.has_secrets;
  out["unreadable"] = process.unreadable;
  return out;
}

}  // namespace vmwhy::qmp
