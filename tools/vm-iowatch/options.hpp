// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The command line of vm-iowatch.

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "cli/cli.hpp"

namespace vmwhy::vm_iowatch {

struct Options {
  std::vector<std::string> sockets, names;
  std::vector<std::uint32_t> pids;
  bool all = false;
  std::string node;  ///< Only what is, or lies under, this block node; empty: all.
  std::chrono::nanoseconds slow{std::chrono::milliseconds(500)};
  std::chrono::nanoseconds hang{std::chrono::seconds(5)};
  std::chrono::nanoseconds interval{std::chrono::seconds(1)};
  std::chrono::nanoseconds duration{0};  ///< 0: until a signal, or the end of the VMs.
  bool map = false, json = false, check = false, quiet = false;
  bool no_bpf = false, syscall_probes = false;
  std::string output;
  std::string args;  ///< The whole command line, for the trace.
};

struct Parsed {
  std::optional<Options> options;
  int exit_code = 0;  ///< Where there are none.
};
Parsed parse_options(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

}  // namespace vmwhy::vm_iowatch
