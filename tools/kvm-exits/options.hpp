// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The command line of kvm-exits.

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "cli/cli.hpp"

namespace vmwhy::kvm_exits {

enum class Key { time, count, max };

struct Options {
  std::vector<std::uint32_t> pids;
  std::vector<std::string> names;
  std::vector<std::string> sockets;  ///< Monitors: their VMs are watched, and asked for their devices.
  bool no_qmp = false;               ///< Ask no monitor, also not one that is free.
  bool all = false;
  std::vector<std::int32_t> vcpus;       ///< Only these; empty: every vCPU.
  std::chrono::nanoseconds interval{0};  ///< 0: one table at the end.
  std::chrono::nanoseconds duration{0};  ///< 0: until a signal, or the command's end.
  std::chrono::nanoseconds min_latency{0};
  Key key = Key::time;
  bool exits = true, userspace = true, pio = true, mmio = true;
  bool json = false, csv = false, raw = false, check = false, quiet = false;
  std::string probe = "auto";  ///< "auto", "btf", "raw", "classic".
  std::string output;
  std::uint64_t ring_mb = 8;
  std::uint64_t max_vcpus = 0;  ///< 0: from the VMs found.
  cli::Color color = cli::Color::automatic;
  std::vector<std::string> command;
  std::string args;  ///< The whole command line, for the trace.
};

struct Parsed {
  std::optional<Options> options;
  int exit_code = 0;  ///< Where there are none.
};
Parsed parse_options(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

}  // namespace vmwhy::kvm_exits
