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
  std::uint64_t settled_ns = 0;  ///< Trace time of the last settling.

  bool has_settled(const timeline::Incident& incident) const;
  void settle();
};

namespace {
constexpr std::size_t kMaxSettled = 4096;
constexpr std::size_t kFirstSettled = 1024;
/// Closed incidents beyond this wait for no collection any more.
constexpr std::size_t kMaxWaiting = 256;
constexpr std::uint64_t kSettleEvery = 100'000'000;
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
  const std::map<std::uint64_t, timeline::Incident>& all = timeline.incidents().all();
  if (timeline.now_ns() < settled_ns + kSettleEvery && all.size() <= kMaxWaiting) return;
  settled_ns = timeline.now_ns();
  std::size_t over = all.size() > kMaxWaiting ? all.size() - kMaxWaiting : 0;
  std::vector<std::uint64_t> done;
  for (const auto& [id, incident] : all) {
    const bool forced = over > 0 && incident.end_ns.has_value();
    if (!forced && !has_settled(incident)) continue;
    if (over > 0) --over;
    done.push_back(id);
  }
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
