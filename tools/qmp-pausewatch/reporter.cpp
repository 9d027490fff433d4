// SPDX-License-Identifier: BSD-2-Clause
#include "reporter.hpp"

#include <boost/json/serialize.hpp>
#include <ostream>

namespace vmwhy::qmp_pausewatch {

Reporter::Reporter(std::ostream& out, bool json, bool quiet, bool color, const causes::Analysis& analysis)
    : out_(out), json_(json), quiet_(quiet), analysis_(analysis) {
  style_.color = color && !json;
}

void Reporter::handle(const causes::Change& change) {
  Told& told = open_[change.incident];
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
  told.reported = true;
  told.cause = incident.verdict.cause;
  told.confidence = incident.verdict.confidence;
  ++reported_;
  if (json_) {
    boost::json::object line = {{"schema", "vmwhy.incident/1"}, {"report", what}};
    for (const auto& member : render::to_json(incident)) line.insert(member);
    out_ << boost::json::serialize(line) << "\n";
  } else {
    if (std::string_view(what) == "corrected") out_ << "Corrected: more was seen of incident " << id << ".\n";
    render::report(out_, incident, style_);
  }
  out_ << std::flush;
  if (on_report) on_report(incident);
}

void Reporter::close(std::uint64_t id, Told& told) {
  const causes::Incident incident = analysis_.judge(id);
  if (incident.id != 0) {
    const bool other = incident.verdict.cause != told.cause || incident.verdict.confidence != told.confidence;
    if (other) {
      --reported_;  // The same incident again.
      report(id, told, "corrected");
    }
    if (json_) {
      boost::json::object line = {{"schema", "vmwhy.incident/1"}, {"report", "ended"}};
      for (const auto& member : render::to_json(incident)) line.insert(member);
      out_ << boost::json::serialize(line) << "\n";
    } else if (!quiet_) {
      render::ended(out_, incident, style_);
    }
    out_ << std::flush;
  }
  open_.erase(id);
}

void Reporter::finish() {
  const auto open = open_;
  for (const auto& entry : open) {
    const auto found = open_.find(entry.first);
    if (found == open_.end() || found->second.reported) continue;
    report(entry.first, found->second, "new");
  }
}

}  // namespace vmwhy::qmp_pausewatch
