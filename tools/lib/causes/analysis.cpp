// SPDX-License-Identifier: BSD-2-Clause
#include "causes/analysis.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "causes/judge.hpp"
#include "timeline/timeline.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {

std::string_view to_string(Confidence confidence) {
  switch (confidence) {
    case Confidence::proven:
      return "proven";
    case Confidence::likely:
      return "likely";
    case Confidence::unknown:
      break;
  }
  return "unknown";
}

std::string_view to_string(Kind kind) {
  switch (kind) {
    case Kind::pause:
      return "pause";
    case Kind::stall:
      return "stall";
    case Kind::exit:
      return "exit";
    case Kind::event:
      break;
  }
  return "event";
}

class Analysis::Impl {
 public:
  timeline::Timeline timeline;
  std::map<std::uint64_t, Incident> settled;
  std::uint64_t unlisted = 0;

  bool has_settled(const timeline::Incident& incident) const;
  void settle();
};

namespace {
constexpr std::size_t kMaxSettled = 4096;
constexpr std::size_t kFirstSettled = 1024;
}  // namespace

bool Analysis::Impl::has_settled(const timeline::Incident& incident) const {
  const bool exit = incident.topic == timeline::Topic::exit;
  if (!incident.end_ns && !exit) return false;
  const std::uint64_t now = timeline.now_ns();
  const std::uint64_t end = std::max(incident.end_ns.value_or(incident.begin_ns), incident.opened_ns);
  return now > end + timeline::kSettle &&
         (incident.collected || now > incident.opened_ns + timeline::kCollectionLimit);
}

/// Judges what no later fact can change, and lets the timeline forget the facts.
void Analysis::Impl::settle() {
  std::vector<std::uint64_t> done;
  for (const auto& [id, incident] : timeline.incidents().all())
    if (has_settled(incident)) done.push_back(id);
  for (std::uint64_t id : done) {
    settled.emplace(id, causes::judge(timeline, *timeline.incidents().find(id)));
    timeline.incidents().forget(id);
    if (settled.size() <= kMaxSettled) continue;
    settled.erase(std::next(settled.begin(), kFirstSettled));
    ++unlisted;
  }
}

Analysis::Analysis() : impl_(std::make_unique<Impl>()) {}
Analysis::~Analysis() = default;

void Analysis::add_meta(const boost::json::object& meta) {
  impl_->timeline.add_meta(meta);
}

void Analysis::add(const trace::RecordView& record) {
  impl_->timeline.add(record);
  impl_->settle();
}

std::vector<Change> Analysis::take_changes() {
  std::vector<Change> changes;
  for (const timeline::IncidentChange& change : impl_->timeline.incidents().take_changes()) {
    Change::What what = Change::What::opened;
    if (change.what == timeline::IncidentChange::What::collected) what = Change::What::collected;
    if (change.what == timeline::IncidentChange::What::closed) what = Change::What::closed;
    changes.push_back({what, change.incident, change.vm});
  }
  return changes;
}

void Analysis::finish() {}

Incident Analysis::judge(std::uint64_t incident) const {
  auto at = impl_->settled.find(incident);
  if (at != impl_->settled.end()) return at->second;
  const timeline::Incident* open = impl_->timeline.incidents().find(incident);
  return open != nullptr ? causes::judge(impl_->timeline, *open) : Incident{};
}

std::vector<Incident> Analysis::judge_all() const {
  std::vector<Incident> all;
  for (const auto& [id, incident] : impl_->settled) all.push_back(incident);
  for (const auto& [id, incident] : impl_->timeline.incidents().all())
    all.push_back(causes::judge(impl_->timeline, incident));
  std::stable_sort(all.begin(), all.end(), [](const Incident& a, const Incident& b) {
    return a.begin_ns != b.begin_ns ? a.begin_ns < b.begin_ns : a.id < b.id;
  });
  return all;
}

TraceSummary Analysis::summary() const {
  TraceSummary summary = summarize(impl_->timeline);
  if (impl_->unlisted > 0)
    summary.notes.push_back(std::to_string(impl_->unlisted) + " incidents in the middle are not listed");
  return summary;
}

}  // namespace vmwhy::causes
