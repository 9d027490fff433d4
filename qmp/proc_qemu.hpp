// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One QEMU process as /proc shows it. Internal to discovery.

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "qmp/command_line.hpp"
#include "qmp/discovery.hpp"

namespace vmwhy::qmp {

/// What costs nothing and cannot block: from stat, comm and the link exe.
struct ProcBasics {
  std::uint32_t pid = 0;
  std::uint64_t start_ns = 0;
  std::uint32_t uid = 0;
  std::string comm;
  std::string executable;
  bool is_qemu = false;
};

/// Nothing if there is no such process.
std::optional<ProcBasics> read_basics(const std::string& proc, std::uint32_t pid);
/// All process ids, ascending.
std::vector<std::uint32_t> list_pids(const std::string& proc);

/// A line of /proc/net/unix.
struct NetUnixEntry {
  std::uint32_t inode = 0;
  bool listening = false;
  bool connected = false;
  std::string path;
};
std::vector<NetUnixEntry> parse_net_unix(const std::string& text);

/// What a job found so far; filled step by step, so that a job that hangs leaves what it had.
struct ProcFindings {
  std::mutex mutex;
  QemuProcess process;
  /// By index of process.monitors: the inodes of accepted connections.
  std::vector<std::vector<std::uint32_t>> accepted;
  bool own_network = false;  ///< Its network namespace is ours: sock_diag can tell the peers.
};

/// Tables that all jobs of one call share, by network namespace.
class NetUnixCache {
 public:
  using Table = std::shared_ptr<const std::vector<NetUnixEntry>>;
  Table get(const std::string& proc, std::uint32_t pid);

 private:
  std::mutex mutex_;
  std::map<std::string, Table> tables_;
};

/// The container's identifier in the text of a cgroup file; "" where it names none.
std::string container_id(const std::string& cgroup);

/// The job for one process. Reads the command line, which may block, last.
void inspect_process(const std::string& proc, const ProcBasics& basics, NetUnixCache& cache,
                     ProcFindings& findings);

/// Who started it.
Owner tell_owner(const CommandLine& command_line, const std::string& cgroup, bool other_pid_namespace,
                 bool looks_libvirt, std::string& detail);

}  // namespace vmwhy::qmp
