// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The code that processes have mapped: which files lie where, and names for stacks of their threads. Reading
// /proc/PID/maps waits for the lock of the process's memory, and reading a file for its storage: all of this
// belongs on a thread that may be left behind. One thread.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/failure.hpp"
#include "sym/executable.hpp"
#include "sym/unwind.hpp"

namespace vmwhy::sym {

/// Code of a file, as a line of /proc/PID/maps has it.
struct Mapping {
  std::uint64_t begin = 0, end = 0;  ///< In the process.
  std::uint64_t offset = 0;          ///< In the file.
  std::string device;                ///< "08:01".
  std::uint64_t inode = 0;
  std::string path;
};
/// The executable mappings of files. Lines that are none are left out.
std::vector<Mapping> parse_maps(std::string_view text);

struct NamedFrame {
  std::string name;      ///< "bdrv_co_flush+0x1c"; "qemu-system-x86_64+0x5d5f70" where no symbol covers it.
  std::string build_id;  ///< Of the file; "" without one.
  std::uint64_t address = 0;  ///< In the file.
};

class ProcessCode {
 public:
  /// Reads, or reads again, what the process has mapped, and opens its executable and the C library.
  /// Errors: errno of /proc/PID/maps.
  Result<void> look(std::uint32_t pid);
  void forget(std::uint32_t pid) { mappings_.erase(pid); }
  bool knows(std::uint32_t pid) const { return mappings_.contains(pid); }
  /// From the innermost outwards. Empty: the process is not known, or its code is not.
  std::vector<NamedFrame> name(std::uint32_t pid, const Snapshot& snapshot);

 private:
  using Key = std::pair<std::string, std::uint64_t>;
  const Executable* open(std::uint32_t pid, const Mapping& mapping);

  std::map<std::uint32_t, std::vector<Mapping>> mappings_;  ///< By process id.
  /// By device and inode: VMs of one QEMU share it. Null: it cannot be read.
  std::map<Key, std::unique_ptr<Executable>> files_;
};

}  // namespace vmwhy::sym
