// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What all binaries share on the command line: exit codes, units, the option table (CLI11 behind it), --help
// that ends with examples, --version.

#include <chrono>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vmwhy::cli {

/// Exit codes; see docs/verdicts.md for what `found` means to each tool.
enum ExitCode : int {
  kOk = 0,
  kFailed = 1,       ///< The operation failed.
  kUsage = 2,        ///< Wrong usage.
  kEnvironment = 3,  ///< A privilege, a file or a feature is missing; the message names the remedy.
  kFound = 4,        ///< Done, and something was found (where --exit-code asks for it).
};

/// "500ms", "2s", "5m", "1h", "250us"; a bare number means seconds. Nothing for anything else, or above 10
/// years.
std::optional<std::chrono::nanoseconds> parse_duration(std::string_view text);

enum class Color { automatic, always, never };

/// Whether to colour what goes to file descriptor `fd`: honours NO_COLOR, TERM=dumb and whether it is a
/// terminal.
bool use_color(Color color, int fd);

std::string version_line(std::string_view tool);
/// "0.1.0 (abc123)".
std::string version();

/// A table of options. Every call binds one option to a variable that outlives parse().
/// `names` is CLI11's form: "-o,--output". The defaults are what the variables hold.
class Parser {
 public:
  Parser(std::string tool, std::string summary);
  Parser(Parser&&) noexcept;
  ~Parser();

  Parser& flag(const std::string& names, bool& value, const std::string& help);
  Parser& text(const std::string& names, std::string& value, const std::string& placeholder,
               const std::string& help);
  Parser& texts(const std::string& names, std::vector<std::string>& values, const std::string& placeholder,
                const std::string& help);
  /// Less than `least` is a usage error.
  Parser& number(const std::string& names, std::uint64_t& value, const std::string& placeholder,
                 const std::string& help, std::uint64_t least = 0);
  Parser& duration(const std::string& names, std::chrono::nanoseconds& value, const std::string& help);
  Parser& color(Color& value);
  /// Positional arguments.
  Parser& positional(const std::string& name, std::vector<std::string>& values, const std::string& help,
                     bool required);
  /// Everything after "--" goes to `values`, untouched.
  Parser& command_after_dashes(std::vector<std::string>& values, const std::string& help);
  Parser& examples(std::string text);

  /// @return an exit code where the program is to end now (help, version, usage error); nothing to go on.
  std::optional<int> parse(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// Runs `body`, turning whatever escapes it into one line on stderr and kFailed; a broken pipe on stdout is
/// kOk.
int guarded(std::string_view tool, int (*body)(int, char**), int argc, char** argv);

}  // namespace vmwhy::cli
