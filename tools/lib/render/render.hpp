// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Verdicts as text for a person and as JSON for a program. Decides nothing.

#include <boost/json/object.hpp>
#include <iosfwd>
#include <string>
#include <vector>

#include "causes/verdict.hpp"

namespace vmwhy::render {

struct TextStyle {
  bool color = false;
  int width = 100;
};

/// The whole report on one incident: what, since when, why, evidence, ruled out, not proved, what to do.
void report(std::ostream& out, const causes::Incident& incident, const TextStyle& style);

/// One short block for an incident that ended: how long it took, and what made it go on.
void ended(std::ostream& out, const causes::Incident& incident, const TextStyle& style);

/// What holds for all verdicts of a trace: losses, damage, sensors. Nothing where all is well.
void notes(std::ostream& out, const causes::TraceSummary& summary, const TextStyle& style);

/// One element of "incidents" of vmwhy.verdict/1.
boost::json::object to_json(const causes::Incident& incident);

/// The document vmwhy.verdict/1.
boost::json::object to_json(const causes::TraceSummary& summary,
                            const std::vector<causes::Incident>& incidents);

}  // namespace vmwhy::render
