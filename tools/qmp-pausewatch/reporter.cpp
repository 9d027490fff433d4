// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/reporter.hpp"

#include <boost/json/serialize.hpp>
#include <ostream>

namespace vmwhy::qmp_pausewatch {

Reporter::Reporter(std::ostream& out, bool json, bool quiet, bool color, const causes::Analysis& analysis)
    : out_(out), json_(json), quiet_(quiet), analysis_(analysis) {
  style_.color = color && !json;
}

void Reporter::handle(const causes::Change& change) {
  Told& told = told_[change.incident];
  switch (change.what) {
    case causes::Change::What::opened:
      return;
    case causes::Change::What::collected:
      if (!told.reported) report(change.incident, told, "new");
      if (told.closed) close(change.incident, told);
      return;
    case causes::Change::What::closed:
      told.closed = true;
      // A pause that was over before its evidence was complete is reported when it is.
      if (told.reported) close(change.incident, told);
      return;
  }
}

void Reporter::report(std::uint64_t id, Told& told, const char* what) {
  const causes::Incident incident = analysis_.judge(id);
  if (incident.id == 0) return;
  if (!std::exchange(told.reported, true)) ++reported_;
  told.cause = incident.verdict.cause;
  told.confidence = causes::to_string(incident.verdict.confidence);
  told.summary = incident.verdict.summary;
  told.run_state = incident.run_state;
  print(incident, what);
  if (on_report) on_report(incident);
}

void Reporter::print(const causes::Incident& incident, const char* what) {
  const std::string_view kind = what;
  if (json_) {
    boost::json::object document = render::to_json(analysis_.summary(), {incident});
    document["report"] = kind;
    out_ << boost::json::serialize(document) << "\n";
  } else if (kind != "ended") {
    if (kind == "corrected") out_ << "Corrected, since more was seen:\n";
    render::report(out_, incident, style_);
  } else if (!quiet_) {
    render::ended(out_, incident, style_);
  }
  out_ << std::flush;
}

void Reporter::correct(std::uint64_t id, Told& told) {
  const causes::Incident incident = analysis_.judge(id);
  if (incident.id == 0) return;
  const bool other = incident.verdict.cause != told.cause ||
                     causes::to_string(incident.verdict.confidence) != told.confidence;
  // A program that follows the lines must end up with what the trace says; a person need not read a count
  // again.
  const bool more = incident.verdict.summary != told.summary || incident.run_state != told.run_state;
  if (other || (json_ && more)) report(id, told, "corrected");
}

void Reporter::close(std::uint64_t id, Told& told) {
  correct(id, told);
  told.ended = true;
  const causes::Incident incident = analysis_.judge(id);
  if (incident.id == 0) return;
  told.summary = incident.verdict.summary;
  told.run_state = incident.run_state;
  print(incident, "ended");
}

void Reporter::look_back() {
  for (auto at = told_.begin(); at != told_.end();) {
    // What made a VM pause may show only later: a migration completes, a main loop answers again.
    const bool young = at->second.reported && ++at->second.looks < 60;
    if (at->second.ended || young) correct(at->first, at->second);
    // The analysis takes facts for late ones of an incident for this long.
    at = at->second.ended && ++at->second.age > 5 ? told_.erase(at) : std::next(at);
  }
}

void Reporter::finish() {
  for (auto& entry : told_) {
    if (entry.second.reported) {
      correct(entry.first, entry.second);
    } else {
      report(entry.first, entry.second, "new");
    }
  }
}

}  // namespace vmwhy::qmp_pausewatch
