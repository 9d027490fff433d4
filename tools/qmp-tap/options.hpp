// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The command line of qmp-tap.

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "cli/cli.hpp"

namespace vmwhy::qmp_tap {

enum class Only { all, commands, events, errors };

struct Options {
  std::vector<std::uint32_t> pids;
  std::vector<std::string> names;
  bool all = false;
  Only only = Only::all;
  std::chrono::nanoseconds slow{0};      ///< 0: show commands however fast they were answered.
  std::chrono::nanoseconds duration{0};  ///< 0: until a signal, or until nothing is left to listen to.
  std::string output;
  bool json = false, verbose = false, quiet = false, show_secrets = false;
  std::uint64_t ring_mb = 16;
  cli::Color color = cli::Color::automatic;
  std::string args;  ///< The whole command line, for the trace.
};

struct Parsed {
  std::optional<Options> options;
  int exit_code = 0;  ///< Where there are none.
};
Parsed parse_options(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

}  // namespace vmwhy::qmp_tap
