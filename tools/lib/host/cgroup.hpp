// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The control groups of a process, v1, v2 and both at once: freezer, memory and its limit, CPU quota and
// throttling, OOM kills. Any thread.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "host/proc_file.hpp"
#include "trace/record.hpp"

namespace vmwhy::host {

/// Where this host mounts its cgroup hierarchies.
struct CgroupMounts {
  std::string unified;                    ///< cgroup2's mount point; empty: none.
  std::map<std::string, std::string> v1;  ///< Controller to mount point.
};

/// @param mountinfo  The text of /proc/self/mountinfo.
CgroupMounts parse_cgroup_mounts(std::string_view mountinfo);
CgroupMounts find_cgroup_mounts(const std::string& proc = "/proc");

/// The folders of one process in the hierarchies that matter here; empty where it has none.
struct CgroupPlace {
  std::string path;  ///< What a person would call it: the v2 path, or the v1 freezer's, or memory's.
  std::string unified, memory, cpu;
  std::string cpu_path, memory_path;  ///< As /proc/PID/cgroup has them.
  std::string
      freezer_v1;  ///< In a hybrid a process can be frozen by either hierarchy: `unified` is the other.
  bool memory_is_v1 = false, cpu_is_v1 = false;
};

/// @param cgroup  The text of /proc/PID/cgroup.
CgroupPlace locate_cgroup(std::string_view cgroup, const CgroupMounts& mounts);

/// One process's cgroups. Keeps the files of a sample every second open.
class CgroupWatch {
 public:
  CgroupWatch() = default;
  CgroupWatch(std::uint32_t pid, const CgroupMounts& mounts, const std::string& proc = "/proc");

  /// Looks again where the process is: it may have been moved. Cheap where it has not.
  void refresh();

  trace::FreezerState freezer() const;
  /// Limits and quotas are the tightest between the group and its root.
  trace::OwnedRecord record(std::uint64_t time_ns, std::uint32_t vm) const;
  const CgroupPlace& place() const { return place_; }

 private:
  void locate(std::string_view cgroup);

  CgroupMounts mounts_;
  KeptFile cgroup_;
  std::string last_;  ///< What cgroup_ said when `place_` was found.
  CgroupPlace place_;
  KeptFile freezer_v1_, freezer_v2_;
};

}  // namespace vmwhy::host
