// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The threads of a process from /proc/PID/task: states for a sample every second, and everything the kernel
// tells of each at a collection. Never reads what takes the process's mmap lock. Any thread.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "trace/record.hpp"

namespace vmwhy::host {

/// What a thread is to QEMU, as QMP (query-cpus-fast, query-iothreads) or its name said.
struct Role {
  trace::ThreadRole role = trace::ThreadRole::other;
  std::int32_t vcpu = -1;
};
using Roles = std::map<std::uint32_t, Role>;

struct ThreadSample {
  std::uint32_t tid = 0;
  char state = 0;
  /// It sleeps until the server of a FUSE file system answers: interruptible (S) to the kernel, and as stuck
  /// as in D to whoever waits for the request.
  bool waits_for_fuse = false;
};

/// The state letters of all threads; empty when the process is gone.
std::vector<ThreadSample> sample_threads(std::uint32_t pid, const std::string& proc = "/proc");

/// Everything of one thread: state, wchan, syscall, kernel stack, times. What cannot be read is left out.
trace::OwnedRecord thread_record(std::uint32_t pid, std::uint32_t tid, const Roles& roles,
                                 std::uint64_t time_ns, std::uint32_t vm, const std::string& proc = "/proc");

/// All threads, at most `limit`: main first, then by tid.
std::vector<trace::OwnedRecord> thread_records(std::uint32_t pid, const Roles& roles, std::uint64_t time_ns,
                                               std::uint32_t vm, std::size_t limit = 512,
                                               const std::string& proc = "/proc");

}  // namespace vmwhy::host
