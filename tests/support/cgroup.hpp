// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A cgroup of a test's own that can freeze its processes: hierarchy v1's freezer controller, or v2's
// cgroup.freeze. Thawed and removed when the test ends.

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace vmwhy::test {

class Freezer {
 public:
  enum class Version { v1, v2 };

  /// @throws std::system_error, also where the machine has no such hierarchy.
  explicit Freezer(Version version);
  Freezer(const Freezer&) = delete;
  Freezer& operator=(const Freezer&) = delete;
  ~Freezer();  ///< Thaws, moves what is left to the parent group, removes the group.

  void add(pid_t pid) const;
  void freeze() const;  ///< Returns when the kernel says that all is frozen.
  void thaw() const;
  const std::string& path() const { return path_; }

 private:
  bool frozen() const;

  Version version_;
  std::string parent_, path_;
};

/// A cgroup of a test's own with a CFS quota, in hierarchy v1's cpu controller. Removed when the test ends.
class CpuQuota {
 public:
  /// @throws std::system_error, also where the machine has no such hierarchy, or quotas are not to be set.
  CpuQuota(int quota_us, int period_us);
  CpuQuota(const CpuQuota&) = delete;
  CpuQuota& operator=(const CpuQuota&) = delete;
  ~CpuQuota();  ///< Moves what is left to the parent group, removes the group.

  void add(pid_t pid) const;

 private:
  std::string parent_, path_;
};

/// A cgroup of a test's own with a memory limit, in hierarchy v1's memory controller. What its members take
/// from then on counts. Removed when the test ends.
class MemoryLimit {
 public:
  /// @throws std::system_error, also where the machine has no such hierarchy, or limits are not to be set.
  explicit MemoryLimit(std::uint64_t bytes);
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;
  ~MemoryLimit();  ///< Moves what is left to the parent group, removes the group.

  void add(pid_t pid) const;
  const std::string& path() const { return path_; }

 private:
  std::string parent_, path_;
};

}  // namespace vmwhy::test
