// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What the analysis says: incidents and the verdict on each. docs/verdicts.md describes the JSON form.

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "timeline/kind.hpp"

namespace vmwhy::causes {

enum class Confidence {
  unknown = 0,  ///< What was seen does not tell.
  likely = 1,   ///< Run state and QMP say so, but a link of the chain was not observed.
  proven = 2,   ///< An unbroken chain from the first failing thing to the incident, each link observed.
};

using Kind = timeline::Kind;

struct Evidence {
  std::uint64_t time_ns = 0;  ///< CLOCK_BOOTTIME.
  std::string source;         ///< qmp, proc, kmsg, psi, cgroup, reach, or a probe family.
  std::string text;
};
struct RuledOut {
  std::string cause;
  std::string against;  ///< The evidence against it.
};
struct NotProved {
  std::string what;
  std::string why;  ///< Sensor off, lost records, missing rights, not asked.
};
struct OtherCause {
  std::string cause;
  Confidence confidence = Confidence::unknown;
};

struct Verdict {
  std::string cause = "unknown";
  Confidence confidence = Confidence::unknown;
  std::string summary;             ///< One sentence.
  boost::json::object details;     ///< Cause-specific; keys are rows of docs/verdicts.md.
  std::vector<Evidence> evidence;  ///< By time.
  std::vector<OtherCause> other_causes;
  std::vector<RuledOut> ruled_out;
  std::vector<NotProved> not_proved;
  std::vector<std::string>
      missing;  ///< Sensors and rights that were not there, and losses in the incident's time.
  std::vector<std::string> remedy;
};

struct VmName {
  std::uint32_t id = 0;
  std::string name;
  std::string uuid;
  std::uint32_t pid = 0;
  std::string monitor;  ///< Address of the monitor that heard it: what a remedy's qmp-call needs.
};

struct Incident {
  std::uint64_t id = 0;  ///< Counts from 1 within a trace.
  VmName vm;
  Kind kind = Kind::pause;
  std::string run_state;       ///< QEMU's, as query-status said first in the incident; empty: not known.
  std::uint64_t begin_ns = 0;  ///< CLOCK_BOOTTIME.
  std::optional<std::uint64_t> end_ns;
  bool began_before_watch = false;  ///< Found when the watch began: begin_ns is when it was found.
  std::string ended_by;             ///< "RESUME", "QEMU ended", …
  std::optional<std::int64_t> begin_realtime_ns;
  Verdict verdict;
};

/// What a document says of the whole trace.
struct TraceSummary {
  std::string trace;         ///< File name; empty for a live run without a file.
  boost::json::object host;  ///< meta's "host".
  std::uint64_t lost_records = 0;
  std::uint64_t first_ns = 0, last_ns = 0;
  std::uint64_t vms = 0;
  std::vector<std::string> notes;  ///< Damage, truncation, sensors: what a reader of any verdict must know.
};

std::string_view to_string(Confidence confidence);
std::string_view to_string(Kind kind);

}  // namespace vmwhy::causes
