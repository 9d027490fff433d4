// SPDX-License-Identifier: BSD-2-Clause
#include "causes/judge.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>

#include "causes/actors.hpp"
#include "causes/inside.hpp"
#include "causes/rule.hpp"
#include "causes/rules/threads.hpp"
#include "core/text.hpp"
#include "timeline/json_read.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {
namespace {

constexpr std::size_t kMaxEvidence = 64;
constexpr std::size_t kMaxNotes = 64;

struct Candidate {
  const Rule* rule;
  Finding finding;
};

VmName name_of(const timeline::VmTracks& vm) {
  VmName name;
  name.id = vm.id;
  name.name = vm.name;
  name.uuid = vm.uuid;
  name.pid = vm.pid;
  name.monitor = monitor_of(vm);
  return name;
}

/// What every reader wants to see whatever the cause: the stop, and the state that QEMU gave for it.
void add_frame(const Case& c, Verdict& verdict) {
  auto add = [&](Evidence evidence) {
    for (const Evidence& other : verdict.evidence)
      if (other.time_ns == evidence.time_ns && other.text == evidence.text) return;
    verdict.evidence.push_back(std::move(evidence));
  };
  if (c.is_pause()) {
    if (const timeline::QmpEvent* stop = c.vm.first_event(c.incident.trigger, c.begin, c.begin))
      add(qmp_evidence(*stop));
    if (const StopPath path = find_stop(c); path && c.incident.trigger == timeline::kRunStateSet)
      add(call_evidence(*path.origin));
    if (const timeline::OwnerState* said = c.vm.owner_states.first_in(c.begin, c.until)) {
      verdict.details["owner_state"] = said->state;
      add({said->time_ns, "owner", fmt::format("{} says: {}", said->owner, said->state)});
    }
    for (const timeline::Status& status : c.vm.statuses) {
      if (status.time_ns < c.begin || status.time_ns > c.until || status.running) continue;
      add({status.time_ns, "qmp", fmt::format("query-status: {}", status.state)});
      break;
    }
  }
  if (c.is_pause() && c.incident.end_ns && c.incident.ended_by == "RESUME") {
    if (const Act act = last_act(c.vm, {"cont"}, c.begin, *c.incident.end_ns)) {
      boost::json::object resumed = act.details();
      resumed["after_ns"] = *c.incident.end_ns - c.begin;
      verdict.details["resumed_by"] = std::move(resumed);
      add(act.evidence());
    }
  }
  std::stable_sort(verdict.evidence.begin(), verdict.evidence.end(),
                   [](const Evidence& a, const Evidence& b) { return a.time_ns < b.time_ns; });
  if (verdict.evidence.size() > kMaxEvidence) {
    const std::size_t cut = verdict.evidence.size() - kMaxEvidence;
    verdict.evidence.erase(verdict.evidence.begin() + kMaxEvidence / 2,
                           verdict.evidence.begin() + static_cast<std::ptrdiff_t>(kMaxEvidence / 2 + cut));
  }
}

bool is_overdue(const Case& c, std::string_view command) {
  return std::any_of(
      c.vm.link_changes.begin(), c.vm.link_changes.end(), [&](const timeline::LinkChange& change) {
        return change.state == trace::QmpLinkState::reply_overdue && change.detail == command &&
               change.time_ns >= c.begin && change.time_ns <= c.until + timeline::kSecond;
      });
}

/// The image of a disk that only QEMU's descriptor holds is lost with QEMU, whatever stopped the VM.
void warn_of_deleted(const Case& c, Verdict& verdict) {
  if (c.incident.kind == Kind::exit || c.vm.pid == 0) return;
  std::map<std::string, const timeline::NodeFile*> deleted;
  for (const timeline::NodeFile& file : c.vm.files) {
    if (file.time_ns > c.until + timeline::kSecond) continue;
    const bool held = (file.file.flags & trace::kNodeDeleted) != 0 && S_ISREG(file.file.mode) &&
                      (file.file.flags & trace::kNodeNoFd) == 0;
    if (held) deleted[file.path] = &file;
  }
  for (const auto& [path, file] : deleted)
    verdict.remedy.insert(
        verdict.remedy.begin(),
        fmt::format("the image {} is deleted: copy it from /proc/{}/fd/{} before QEMU ends, "
                    "while the VM is paused",
                    path, c.vm.pid, file->file.fd));
}

void add_missing_sensors(const timeline::SensorMap& sensors, Verdict& verdict) {
  for (const auto& [name, sensor] : sensors) {
    if (sensor.state == trace::SensorState::on) continue;
    std::string text = name + ": ";
    text += sensor.detail.empty() ? (sensor.state == trace::SensorState::partial ? "partial" : "off")
                                  : sensor.detail;
    if (!sensor.remedy.empty()) text += "; " + sensor.remedy;
    verdict.missing.push_back(std::move(text));
  }
}

void add_missing(const Case& c, Verdict& verdict) {
  add_missing_sensors(c.timeline.host().sensors, verdict);
  add_missing_sensors(c.vm.sensors, verdict);
  for (const timeline::Lost& lost : c.timeline.host().lost) {
    if (lost.last_ns + timeline::kSecond < c.from || lost.time_ns > c.until + timeline::kSecond) continue;
    verdict.missing.push_back(
        fmt::format("{} records of '{}' were lost in this time", lost.count, lost.source));
  }
  if (c.incident.overdue_steps > 0 || !c.incident.unfinished.empty()) {
    verdict.missing.push_back(
        c.incident.unfinished.empty()
            ? fmt::format("{} steps of the collection passed their deadline", c.incident.overdue_steps)
            : "the collection did not finish: " + c.incident.unfinished);
  }
  std::map<std::string, std::string> withheld_for;
  for (const timeline::Withheld& withheld : c.vm.withheld) {
    if (withheld.time_ns < c.begin || withheld.time_ns > c.until + timeline::kSecond) continue;
    // It was asked before, and the evidence says that no reply came.
    if (is_overdue(c, withheld.command)) continue;
    // Another client asked it, and the tap heard the answer.
    const auto answered = c.vm.answered.find(withheld.command);
    if (answered != c.vm.answered.end() && answered->second >= c.begin &&
        answered->second <= c.until + timeline::kSecond)
      continue;
    std::string& commands = withheld_for[withheld.reason];
    if (!contains_word(commands, withheld.command))
      commands += (commands.empty() ? "" : ", ") + withheld.command;
  }
  for (const auto& [reason, commands] : withheld_for)
    verdict.not_proved.push_back({"what " + commands + " would say", "not asked: " + reason});
}

std::string unknown_summary(const Case& c) {
  switch (c.incident.kind) {
    case Kind::pause:
      if (c.incident.end_ns && c.run_state.empty())
        return fmt::format("paused for {} and went on before its run state could be asked",
                           human_duration(static_cast<std::int64_t>(c.until - c.begin)));
      return fmt::format("paused in run state '{}', and nothing that was seen says why",
                         c.run_state.empty() ? "not known" : c.run_state);
    case Kind::stall:
      if (const ThreadStalls threads = thread_stalls_of(c); !threads.list.empty())
        return stalls::sentence(threads.list.front());
      return "it does not get on, and nothing that was seen says why";
    case Kind::exit:
      return "QEMU ended, and nothing that was seen says how";
    case Kind::event:
      break;
  }
  return fmt::format("{}, and nothing that was seen says why", c.incident.trigger);
}

/// What to record when it happens again: whatever sees most of what stood.
std::string next_time(const Case& c, const ThreadStalls& threads) {
  const timeline::Topic topic = c.incident.topic;
  const bool storage =
      topic == timeline::Topic::storage_slow || topic == timeline::Topic::io_reported ||
      (!threads.list.empty() && stalls::greatest(threads.list.front().awake()) == stalls::State::disk);
  return fmt::format(
      "next time: record with {} -p PID -o FILE as root from before it happens, and {}",
      storage ? "vm-iowatch" : "qmp-pausewatch",
      storage ? "see by it (vm-why FILE) which layer below the VM's disks is slow" : "attach the file");
}

void fill_unknown(const Case& c, Verdict& verdict) {
  verdict.cause = "unknown";
  verdict.confidence = Confidence::unknown;
  verdict.summary = unknown_summary(c);
  if (!c.run_state.empty()) verdict.details["run_state"] = c.run_state;
  if (c.is_pause() && c.incident.end_ns && c.run_state.empty()) {
    verdict.not_proved.push_back(
        {"who paused it",
         "a stop with a cont, and a savevm, look the same when they are this short: see the log "
         "of whoever manages the VM"});
  }
  const ThreadStalls threads = thread_stalls_of(c);
  for (std::size_t i = 0; i < threads.list.size() && i < 3; ++i) {
    verdict.evidence.push_back(stall_evidence(threads.list[i]));
    add_stack(threads.list[i], verdict.evidence);
  }
  // What else QEMU said around it.
  std::size_t listed = 0;
  for (const auto& [name, list] : c.vm.events) {
    for (const timeline::QmpEvent& event : list) {
      if (event.time_ns < c.from || event.time_ns > c.until || listed >= 16) continue;
      verdict.evidence.push_back(qmp_evidence(event));
      ++listed;
    }
  }
  if (const timeline::Process* process = c.process()) {
    const unsigned letter = process->state.state;
    if (letter > 32 && letter < 127)
      verdict.evidence.push_back(
          {process->time_ns, "proc",
           fmt::format("process {} is in {}", process->state.pid, static_cast<char>(letter))});
  }
  verdict.remedy.push_back(next_time(c, threads));
}

void take_opinions(const Case& c, std::vector<Candidate>& candidates, Verdict& verdict) {
  for (const Rule& rule : rules()) {
    Opinion opinion = rule.judge(c);
    for (RuledOut& out : opinion.ruled_out) verdict.ruled_out.push_back(std::move(out));
    for (NotProved& not_proved : opinion.not_proved) verdict.not_proved.push_back(std::move(not_proved));
    if (opinion.found) candidates.push_back({&rule, std::move(*opinion.found)});
  }
  std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    if (a.finding.confidence != b.finding.confidence) return a.finding.confidence > b.finding.confidence;
    return a.rule->specificity > b.rule->specificity;
  });
}

}  // namespace

Incident judge(const timeline::Timeline& timeline, const timeline::Incident& incident) {
  const Case c = make_case(timeline, incident);
  Incident result;
  result.id = incident.id;
  result.vm = name_of(c.vm);
  result.vm.id = incident.vm;
  result.kind = incident.kind;
  result.run_state = incident.run_state;
  result.begin_ns = incident.begin_ns;
  result.end_ns = incident.end_ns;
  result.ended_by = incident.ended_by;
  result.began_before_watch = incident.began_before_watch;
  result.begin_realtime_ns = timeline.clocks().to_realtime_ns(incident.begin_ns);

  Verdict& verdict = result.verdict;
  std::vector<Candidate> candidates;
  take_opinions(c, candidates, verdict);
  if (candidates.empty()) {
    fill_unknown(c, verdict);
  } else {
    Finding& best = candidates.front().finding;
    verdict.cause = candidates.front().rule->cause;
    verdict.confidence = best.confidence;
    verdict.summary = std::move(best.summary);
    verdict.details = std::move(best.details);
    verdict.evidence = std::move(best.evidence);
    verdict.remedy = std::move(best.remedy);
    verdict.not_proved.insert(verdict.not_proved.begin(), best.not_proved.begin(), best.not_proved.end());
  }
  for (const Candidate& other : candidates) {
    const bool known = other.rule->cause == verdict.cause ||
                       std::any_of(verdict.other_causes.begin(), verdict.other_causes.end(),
                                   [&](const OtherCause& o) { return o.cause == other.rule->cause; });
    if (!known) verdict.other_causes.push_back({std::string(other.rule->cause), other.finding.confidence});
  }
  std::erase_if(verdict.ruled_out, [&](const RuledOut& out) {
    return std::any_of(candidates.begin(), candidates.end(),
                       [&](const Candidate& candidate) { return candidate.rule->cause == out.cause; });
  });
  add_missing(c, verdict);
  warn_of_deleted(c, verdict);
  add_frame(c, verdict);
  return result;
}

namespace {

void note_sensors(const timeline::SensorMap& sensors, std::vector<std::string>& notes) {
  for (const auto& [name, sensor] : sensors) {
    if (sensor.state == trace::SensorState::on || sensor.state == trace::SensorState::off) continue;
    std::string note =
        fmt::format("sensor {}: {}{}{}", name, sensor.detail.empty() ? "not complete" : sensor.detail,
                    sensor.remedy.empty() ? "" : "; ", sensor.remedy);
    // VMs of one executable all say the same.
    if (std::find(notes.begin(), notes.end(), note) == notes.end()) notes.push_back(std::move(note));
  }
}

}  // namespace

TraceSummary summarize(const timeline::Timeline& timeline) {
  TraceSummary summary;
  if (const boost::json::object* host = timeline::object_of(timeline.meta(), "host")) summary.host = *host;
  summary.lost_records = timeline.host().lost_records;
  summary.first_ns = timeline.first_ns();
  summary.last_ns = timeline.now_ns();
  summary.vms = timeline.vms().size();
  if (summary.lost_records > 0)
    summary.notes.push_back(fmt::format("{} records were lost while recording", summary.lost_records));
  note_sensors(timeline.host().sensors, summary.notes);
  for (const auto& [id, vm] : timeline.vms())
    if (summary.notes.size() < kMaxNotes) note_sensors(vm.sensors, summary.notes);
  if (timeline.ignored_vms() > 0)
    summary.notes.emplace_back("more VMs than this version follows; some were ignored");
  return summary;
}

}  // namespace vmwhy::causes
