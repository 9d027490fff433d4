// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The state of one process from /proc/PID/{stat,status}: files that the kernel answers without the process's
// mmap lock, so that a sick process cannot hold us. Any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "host/proc_file.hpp"
#include "trace/record.hpp"

namespace vmwhy::host {

/// Whether process ids are the kernel's: false inside of a container with ids of its own.
bool in_first_pid_namespace();

/// The fields of /proc/PID/stat (or task/TID/stat) that are used here.
struct StatLine {
  std::uint32_t pid = 0;
  std::string comm;
  char state = 0;  ///< R S D T t Z X I …
  std::uint32_t ppid = 0;
  std::uint64_t cpu_ns = 0;  ///< utime + stime, in the kernel's clock ticks.
  std::uint32_t threads = 0;
  std::uint64_t start_ns = 0;  ///< CLOCK_BOOTTIME.
  std::uint64_t rss_bytes = 0;
  std::int32_t exit_code = 0;  ///< As wait(2) encodes it; 0 unless it is a zombie that we may look at.
};

/// Nothing for a text that is no stat line. A comm with spaces and parentheses is read right.
std::optional<StatLine> parse_stat(std::string_view text);

/// Keeps /proc/PID/stat open: the cheap sample that a watcher takes every second.
class ProcessWatch {
 public:
  ProcessWatch() = default;
  ProcessWatch(std::uint32_t pid, std::string proc = "/proc");

  /// Nothing when the process is gone.
  std::optional<StatLine> sample() const;

  /// The record, with what /proc/PID/status and the tracer's comm add. A process that is gone gives state 0.
  trace::OwnedRecord record(std::uint64_t time_ns, std::uint32_t vm) const;

  std::uint32_t pid() const { return pid_; }

 private:
  std::uint32_t pid_ = 0;
  std::string proc_;
  KeptFile stat_;
};

/// TracerPid of /proc/PID/status; 0 where nobody traces it or it cannot be read.
std::uint32_t tracer_of(std::uint32_t pid, const std::string& proc = "/proc");

/// /proc/PID/comm; empty where it cannot be read.
std::string comm_of(std::uint32_t pid, const std::string& proc = "/proc");

}  // namespace vmwhy::host
