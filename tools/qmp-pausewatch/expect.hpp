// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// --expect CAUSE[/key=value…]: which incident a reproduction has to bring about. Plain values.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "causes/verdict.hpp"
#include "core/failure.hpp"

namespace vmwhy::qmp_pausewatch {

struct Expectation {
  std::string cause;  ///< A cause's name; "any" for every incident.
  std::vector<std::pair<std::string, std::string>> details;

  static Result<Expectation> parse(std::string_view text);

  /// A detail is looked for among the verdict's details and the incident's own fields: vm, kind, run_state,
  /// confidence (at least that much).
  bool matches(const causes::Incident& incident) const;
  std::string to_string() const;
};

/// Exit codes of a run with --expect, made for `git bisect run`.
enum ExpectCode : int {
  kCame = 0,
  kDidNotCome = 1,
  kCannotTell = 125,  ///< No VM could be watched, or COMMAND could not be run, or said so by its own 125.
};

}  // namespace vmwhy::qmp_pausewatch
