// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Starts a program: in a process group of its own, out of reach of the terminal's signals, with standard
// input from nothing, no signal blocked, and SIGINT, SIGTERM and SIGPIPE doing what they do by default.

#include <sys/types.h>

#include <string>
#include <vector>

#include "core/failure.hpp"

namespace vmwhy {

struct SpawnOptions {
  std::vector<std::string> args;         ///< args[0] is looked for in PATH.
  std::vector<std::string> environment;  ///< All of it, as NAME=VALUE.
  int standard_output = 2;               ///< What becomes its descriptor 1.
  bool quiet = false;                    ///< What it says on its standard error goes nowhere.
};

/// @return its process id; whoever calls has to reap it. Errors: errno of posix_spawnp with the program's
/// name.
Result<pid_t> spawn(const SpawnOptions& options);

/// Our own environment, as SpawnOptions has it.
std::vector<std::string> own_environment();

}  // namespace vmwhy
