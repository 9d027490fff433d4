// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What the command line of qmp-pausewatch says, checked.

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "cli/cli.hpp"
#include "tools/qmp-pausewatch/expect.hpp"
#include "tools/qmp-pausewatch/trigger.hpp"

namespace vmwhy::qmp_pausewatch {

struct Options {
  std::vector<std::string> sockets;
  std::vector<std::uint32_t> pids;
  std::vector<std::string> names;
  bool all = false;

  std::string output;  ///< Empty: a name is made, unless no_output.
  bool no_output = false;
  std::chrono::nanoseconds duration{0};  ///< 0: until a signal, or until nothing is left to watch.
  bool json = false;
  bool once = false;
  bool exit_code = false;
  std::vector<std::pair<std::string, std::string>> marks;
  std::chrono::nanoseconds qmp_deadline{std::chrono::seconds(2)};
  bool quiet = false;
  bool verbose = false;
  bool check = false;
  bool no_bpf = false;
  bool syscall_probes = false;
  cli::Color color = cli::Color::automatic;

  std::optional<Expectation> expect;
  std::chrono::nanoseconds within{std::chrono::seconds(30)};
  std::vector<std::string> command;
  std::vector<Trigger> triggers;

  std::string args;  ///< The command line, for the trace.
};

/// Where to go on: Options, or the exit code to end with.
struct Parsed {
  std::optional<Options> options;
  int exit_code = 0;
};
Parsed parse_options(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

}  // namespace vmwhy::qmp_pausewatch
