// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A /proc tree made of files, for discovery.

#include <cstdint>
#include <string>
#include <vector>

#include "temp_dir.hpp"

namespace vmwhy::test {

class FakeProc {
 public:
  FakeProc();

  const std::string& path() const { return path_; }
  /// Where a file of a process stands: file(5, "cgroup").
  std::string file(std::uint32_t pid, const std::string& name) const;
  void write(std::uint32_t pid, const std::string& name, const std::string& content) const;
  void link(std::uint32_t pid, const std::string& name, const std::string& target) const;

  /// A process with stat, comm, exe, cmdline, namespaces like ours, one thread, and an empty net/unix.
  void add(std::uint32_t pid, const std::string& comm, const std::string& executable,
           const std::vector<std::string>& arguments, std::uint64_t start_ticks = 100) const;
  void add_thread(std::uint32_t pid, std::uint32_t tid, const std::string& comm) const;
  /// Replaces the command line by a FIFO that nobody writes to: whoever reads it hangs.
  void hang_cmdline(std::uint32_t pid) const;

 private:
  TempDir dir_;
  std::string path_;
};

}  // namespace vmwhy::test
