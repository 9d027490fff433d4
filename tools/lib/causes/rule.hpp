// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What a rule is. A rule is a pure function of one case: it names its cause with a confidence and the
// evidence that carries it, or says what speaks against it, or both stays silent. Adding a cause: write the
// function in rules/, declare it in rules/rules.hpp, add it to registry.cpp, a section to docs/causes.md, and
// a positive and a near-miss trace to tests/golden/cases.

#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "causes/case.hpp"
#include "causes/verdict.hpp"

namespace vmwhy::causes {

struct Finding {
  Confidence confidence = Confidence::likely;
  std::string summary;
  boost::json::object details;
  std::vector<Evidence> evidence;
  std::vector<std::string> remedy;
  std::vector<NotProved> not_proved;
};

struct Opinion {
  std::optional<Finding> found;
  std::vector<RuledOut> ruled_out;
  std::vector<NotProved> not_proved;  ///< Told even where another cause wins.
};

struct Rule {
  std::string_view cause;
  /// Among findings of equal confidence the more specific one wins: 10 a run state alone, 20 a run state with
  /// its event, 30 one named thing, 40 one named thing that explains why others look alike.
  int specificity;
  Opinion (*judge)(const Case&);
};

/// All rules. A cause may have several.
std::span<const Rule> rules();

// ---- helpers for rules -----------------------------------------------------------------------------------

Opinion nothing();
Opinion against(std::string_view cause, std::string reason);
Opinion found(Finding finding);

Evidence qmp_evidence(const timeline::QmpEvent& event);
/// "STOP", "BLOCK_IO_ERROR: write on node 'd0' failed: …".
std::string describe(const timeline::QmpEvent& event);
Evidence file_evidence(const timeline::NodeFile& file);
Evidence kernel_evidence(const timeline::KernelLine& line);
Evidence request_evidence(const timeline::IoRequest& request);
Evidence block_evidence(const timeline::BlockFailure& failure);
/// "ENOSPC"; the number where it has no name.
std::string errno_name(int error);
Evidence thread_evidence(const timeline::Thread& thread);
Evidence log_evidence(const timeline::Log& log, std::string_view line);

/// The lines of `text` that contain `needle`, at most `limit`.
std::vector<std::string> lines_with(std::string_view text, std::string_view needle, std::size_t limit = 8);
/// The last non-empty lines of `text`.
std::vector<std::string> last_lines(std::string_view text, std::size_t count);
bool contains(std::string_view text, std::string_view needle);
/// Whether `text` has `word` with no letter, digit or dash beside it: "sda" is not in "sda1".
bool contains_word(std::string_view text, std::string_view word);

/// "qmp-call -s ADDRESS COMMAND" with the address of the monitor that heard the VM.
std::string qmp_call(const Case& c, std::string_view command);
std::string monitor_of(const timeline::VmTracks& vm);

}  // namespace vmwhy::causes
