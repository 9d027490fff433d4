// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Finds the QEMU processes of this host and what can be known of them without asking them: from /proc,
// sockets and command lines. A sick QEMU can block whoever reads its /proc/PID/cmdline (it takes the
// process's mmap lock), so such reads are done by threads that may be left behind: a process whose command
// line does not come within the deadline is listed with what is known, and said to be unreadable.

#include <boost/json/object.hpp>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qmp/failure.hpp"

namespace vmwhy::qmp {

/// Who started a QEMU, told from its command line and cgroup.
enum class Owner { plain, libvirt, proxmox, kubevirt, container };
std::string_view to_string(Owner owner);

struct MonitorSocket {
  std::string address;  ///< As Address::parse takes it; unix paths as QEMU's mount namespace names them.
  std::string
      reachable_path;  ///< Unix sockets: a path that works from here (through /proc/PID/root where needed).
  bool held = false;   ///< Another process is connected to it right now.
  std::uint32_t held_by_pid = 0;  ///< Who; 0: not known.
  std::string held_by_comm;
  /// Of the socket's file as QEMU sees it, for comparing names without touching its file system; 0: not
  /// known.
  std::uint64_t device = 0, inode = 0;
  /// The path is relative to QEMU's working folder, and that could not be read: nobody here can connect to
  /// it.
  bool folder_unknown = false;

  /// Where to connect to.
  const std::string& place() const { return reachable_path.empty() ? address : reachable_path; }
  /// "its monitor q.sock is named relative to QEMU's folder, …"; empty where the folder is known.
  std::string why_unreachable() const;
};

struct QemuThread {
  std::uint32_t tid = 0;
  std::string comm;
  std::int32_t vcpu =
      -1;  ///< From the thread's name ("CPU 0/KVM"), or query-cpus-fast; -1: no vCPU, or unknown.
};

/// A file or device on the command line, by node or drive, as far as it is written there.
struct CommandLineDisk {
  std::string node;  ///< node-name, drive id, or "".
  std::string path;
};

struct QemuProcess {
  std::uint32_t pid = 0;
  std::uint64_t start_ns = 0;  ///< CLOCK_BOOTTIME.
  std::uint32_t uid = 0;
  std::string comm;
  std::string executable;  ///< Target of /proc/PID/exe, as its namespace names it; "" if not readable.
  std::string name;        ///< -name / guest=; "" if none.
  std::string uuid;
  std::string accelerator;  ///< "kvm", "tcg", …; "" unknown.
  std::string machine;
  Owner owner = Owner::plain;
  std::string owner_detail;             ///< Proxmox: vmid. KubeVirt: namespace_name. Container: cgroup's id.
  std::vector<MonitorSocket> monitors;  ///< QMP only.
  std::vector<QemuThread> threads;
  std::vector<CommandLineDisk> disks;
  std::string log_file;  ///< stderr's file (fd 2), if a regular file; the path.
  bool has_secrets =
      false;                ///< The command line carried -object secret data or passwords; they are not kept.
  bool unreadable = false;  ///< The command line did not come within the deadline.
};

struct DiscoveryOptions {
  std::string proc = "/proc";
  std::chrono::milliseconds deadline{500};  ///< For all slow reads together.
};

/// All QEMUs of this host, by pid.
std::vector<QemuProcess> find_qemus(const DiscoveryOptions& options = {});

/// One process. Errors: `no_socket`, with a sentence: there is no such process, or it is no QEMU.
Result<QemuProcess> inspect_qemu(std::uint32_t pid, const DiscoveryOptions& options = {});

/// As find_qemus, but returns at once with what it costs nothing to know: pid and start time of the processes
/// whose comm or exe looks like QEMU. For a watcher that looks for new VMs every second.
std::vector<std::pair<std::uint32_t, std::uint64_t>> list_qemu_pids(const DiscoveryOptions& options = {});

/// The document stored in a trace: every field above but the identity of socket files, snake_case, secrets
/// never.
boost::json::object to_json(const QemuProcess& process);

}  // namespace vmwhy::qmp
