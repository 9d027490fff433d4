// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A process with the number that another has just had: what the kernel does by itself only when all numbers
// have been used.

#include <sys/types.h>

#include <cstdint>

namespace vmwhy::test {

/// As fork(), with this process id. -1: it is taken, or may not be asked for (errno).
pid_t fork_as(pid_t pid);

/// Time that its threads have spent on a CPU.
std::uint64_t process_time_ns(pid_t pid);

}  // namespace vmwhy::test
