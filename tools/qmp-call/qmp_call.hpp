// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// qmp-call: sends QMP commands for people and scripts, shows events, lists the QEMUs of this host.

#include <boost/json/object.hpp>
#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vmwhy::qmp_call {

struct Command {
  std::string name;
  boost::json::object arguments;
};

struct Options {
  std::string socket;     ///< -s
  std::uint64_t pid = 0;  ///< -p; 0: not given.
  std::string name;       ///< -n
  std::vector<Command> commands;
  bool watch = false;
  std::vector<std::string> events;       ///< Those that --watch shows; empty: all.
  std::chrono::nanoseconds duration{0};  ///< Of --watch; 0: until interrupted.
  std::chrono::nanoseconds deadline{5'000'000'000};
  bool list = false;
  bool json = false;
  bool verbose = false;
  bool quiet = false;          ///< No replies.
  bool color = false;          ///< Colour the names of events and the head of --list.
  std::string proc = "/proc";  ///< For tests.
};

/// @return an exit code where the program is to end now; nothing to go on.
std::optional<int> parse_options(int argc, const char* const* argv, Options& options, std::ostream& out,
                                 std::ostream& err);

/// "COMMAND [key=value… | JSON-object]…", commands separated by "--".
/// @param problem  set to what is wrong, where nothing is returned.
std::optional<std::vector<Command>> parse_commands(const std::vector<std::string>& words,
                                                   std::string& problem);

int run(const Options& options, std::ostream& out, std::ostream& err);

/// The table of --list, or its JSON document.
int list(const Options& options, std::ostream& out);

}  // namespace vmwhy::qmp_call
