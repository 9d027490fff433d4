// SPDX-License-Identifier: BSD-2-Clause
// Migration. There is no run state postcopy-paused: the source says finish-migrate, the destination running;
// only MIGRATION events (if the capability `events` is on) and query-migrate tell.
#include <fmt/format.h>

#include <algorithm>

#include "causes/actors.hpp"
#include "causes/rules/rules.hpp"
#include "timeline/json_read.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {

using timeline::text_of;

namespace {

/// The MIGRATION event with that status nearest to the incident, in a window wide enough for a migration's
/// end.
const timeline::QmpEvent* migration_event(const Case& c, std::string_view status) {
  const timeline::Bounded<timeline::QmpEvent>* events = c.vm.events_named("MIGRATION");
  if (events == nullptr) return nullptr;
  const timeline::QmpEvent* last = nullptr;
  for (const timeline::QmpEvent& event : *events)
    if (event.time_ns <= c.until + timeline::kSecond && text_of(event.data, "status", 32) == status)
      last = &event;
  return last;
}

const timeline::Migration* migration_query(const Case& c) {
  return c.vm.migrations.last_in(c.begin, c.until + timeline::kSecond);
}

void add_query(const Case& c, Finding& finding) {
  const timeline::Migration* query = migration_query(c);
  if (query == nullptr || query->status.empty()) return;
  finding.details["migration_status"] = query->status;
  std::string text = "query-migrate: " + query->status;
  if (!query->error.empty()) {
    finding.details["migration_error"] = query->error;
    text += ": " + query->error;
  }
  finding.evidence.push_back({query->time_ns, "qmp", text});
}

/// The command that began it, if a tap heard it.
void add_actor(const Case& c, Finding& finding) {
  // A migration may take hours; the last one that was begun is the one that ends.
  const Act act =
      last_act(c.vm, {"migrate", "migrate-incoming", "migrate-continue", "migrate_cancel", "migrate-pause"},
               0, c.incident.end_ns ? c.until : c.begin + timeline::kSecond);
  if (act) name_actor(act, finding);
}

bool migrating(std::string_view status) {
  static constexpr std::string_view kAtWork[] = {
      "setup", "active", "pre-switchover", "device", "postcopy-active", "wait-unplug", "postcopy-recover"};
  return std::find(std::begin(kAtWork), std::end(kAtWork), status) != std::end(kAtWork);
}

}  // namespace

Opinion judge_migration_switchover(const Case& c) {
  if (!c.is_pause()) return nothing();
  const std::string status = c.migration_status();
  const bool finishing = c.run_state == "finish-migrate";
  if (!finishing) {
    // Short ones end before their run state can be asked; the events around them tell.
    const timeline::QmpEvent* before = c.vm.last_event("MIGRATION", c.from, c.begin);
    const bool at_work = before != nullptr && migrating(text_of(before->data, "status", 32));
    if (!c.run_state.empty() || !at_work) return nothing();
  }
  Finding finding;
  const timeline::QmpEvent* event = c.vm.last_event("MIGRATION", 0, c.begin + timeline::kSecond);
  finding.confidence = event != nullptr ? Confidence::proven : Confidence::likely;
  if (event != nullptr) finding.evidence.push_back(qmp_evidence(*event));
  add_query(c, finding);
  add_actor(c, finding);
  finding.details["migration_status"] = status;
  finding.summary = "the last part of a migration: the VM stands while its rest is sent";
  if (status == "pre-switchover") {
    finding.summary =
        "the migration waits before its switchover (pause-before-switchover) for whoever runs it";
    finding.remedy.push_back(
        "the management layer must go on (migrate-continue), or cancel (migrate_cancel)");
  } else if (status.rfind("postcopy", 0) == 0) {
    finding.summary =
        "the VM has moved by post-copy: its source stands for good, and still holds pages of it";
    finding.remedy.push_back("do not end this QEMU before the migration has completed");
  } else {
    finding.remedy.push_back(
        "wait for the migration to end; if it does not, look at the link and query-migrate");
  }
  finding.remedy.push_back("never send cont here: the VM may run at the destination already");
  if (event == nullptr)
    finding.not_proved.push_back({"how far the migration is",
                                  "no MIGRATION event: the capability 'events' is off, or "
                                  "it began before the watch"});
  return found(std::move(finding));
}

Opinion judge_migration_completed(const Case& c) {
  if (!c.is_pause()) return nothing();
  const timeline::QmpEvent* event = migration_event(c, "completed");
  const timeline::Migration* query = migration_query(c);
  if (find_saving(c)) return nothing();  // Told better there.
  // After a RESUME it is another pause's.
  if (event != nullptr && c.incident.end_ns && event->time_ns > c.until) event = nullptr;
  const bool completed_here = event != nullptr && event->time_ns + timeline::kSecond >= c.begin;
  if (c.run_state != "postmigrate" &&
      !(completed_here && (c.run_state == "finish-migrate" || c.run_state.empty())))
    return nothing();
  Finding finding;
  const bool said = event != nullptr || (query != nullptr && query->status == "completed");
  finding.confidence = said ? Confidence::proven : Confidence::likely;
  if (event != nullptr) finding.evidence.push_back(qmp_evidence(*event));
  if (c.run_state != c.incident.run_state) {
    for (const timeline::Status& status : c.vm.statuses) {
      if (status.state != "postmigrate" || status.time_ns < c.begin) continue;
      finding.evidence.push_back({status.time_ns, "qmp", "query-status: postmigrate"});
      break;
    }
  }
  add_query(c, finding);
  add_actor(c, finding);
  finding.summary = "the VM was migrated away (or saved): this is its empty shell";
  finding.remedy.push_back("end this QEMU when the destination runs");
  finding.remedy.push_back("do not send cont: QEMU would obey, and the VM would run twice on the same disks");
  finding.not_proved.push_back({"where it went", "QMP does not tell; a save to a file looks the same"});
  return found(std::move(finding));
}

Opinion judge_migration_failed(const Case& c) {
  const bool event_topic = c.incident.topic == timeline::Topic::migration_failed;
  if (!event_topic && !c.is_pause() && !c.is_exit()) return nothing();
  const timeline::QmpEvent* event = migration_event(c, "failed");
  const timeline::Migration* query = migration_query(c);
  const bool queried = query != nullptr && query->status == "failed";
  if (c.is_exit()) {
    // The destination says why only on its stderr.
    const std::vector<std::string> lines = lines_with(c.log_text(), "load of migration failed");
    if (lines.empty()) return nothing();
    Finding finding;
    finding.confidence = Confidence::likely;
    finding.summary = "the incoming migration could not be loaded, and QEMU ended";
    for (const std::string& line : last_lines(c.log_text(), 4))
      finding.evidence.push_back(log_evidence(*c.log(), line));
    finding.remedy.push_back("start the destination with the same machine, memory and devices as the source");
    return found(std::move(finding));
  }
  if (!event_topic) {
    // A failure from before the stop left the VM running: it is no reason for it to stand.
    const bool recent = event != nullptr && event->time_ns >= c.begin;
    const bool state =
        c.run_state == "paused" || c.run_state == "postmigrate" || c.run_state == "finish-migrate";
    if (!state || !(recent || (queried && c.run_state != "paused"))) return nothing();
  }
  if (event == nullptr && !queried) return nothing();
  Finding finding;
  finding.confidence = event_topic ? Confidence::proven : Confidence::likely;
  if (event != nullptr) finding.evidence.push_back(qmp_evidence(*event));
  add_query(c, finding);
  add_actor(c, finding);
  finding.summary = event_topic ? "a migration failed; the VM runs on where it was"
                                : "a migration failed, and the VM was left stopped";
  if (queried && !query->error.empty()) finding.summary += ": " + query->error;
  finding.remedy.push_back("read the destination's stderr: the reason is often only there");
  if (!event_topic)
    finding.not_proved.push_back({"that nobody had stopped it before",
                                  "a VM that was stopped by hand stays stopped when "
                                  "its migration fails"});
  if (!event_topic)
    finding.remedy.push_back("make sure that the VM does not run at the destination, then: " +
                             qmp_call(c, "cont"));
  return found(std::move(finding));
}

Opinion judge_migration_throttle(const Case& c) {
  if (c.incident.kind != Kind::stall) return nothing();
  // The throttle puts vCPUs to sleep, and nothing else: not the main loop, no iothread, no request.
  const bool topic = c.incident.topic == timeline::Topic::migration_throttle;
  const timeline::Migration* first = nullptr;
  const timeline::Migration* most = nullptr;
  for (const timeline::Migration& query : c.vm.migrations) {
    if (query.time_ns < c.begin || query.time_ns > c.until + timeline::kSecond) continue;
    if (query.throttle_percentage <= 0) continue;
    if (first == nullptr) first = &query;
    if (most == nullptr || query.throttle_percentage > most->throttle_percentage) most = &query;
  }
  if (most == nullptr) return nothing();
  if (!topic)
    return against("migration-throttle",
                   fmt::format("a migration takes {} % of the vCPUs' time, but that holds up nothing else",
                               most->throttle_percentage));
  Finding finding;
  finding.confidence = Confidence::proven;
  add_actor(c, finding);
  std::vector<const timeline::Migration*> told{first};
  if (most != first) told.push_back(most);
  for (const timeline::Migration* query : told) {
    finding.evidence.push_back(
        {query->time_ns, "qmp",
         fmt::format(
             "query-migrate: {}, {} {}", query->status,
             query->by_dirty_limit ? "dirty-limit: sleep of the vCPUs, percent:" : "cpu-throttle-percentage",
             query->throttle_percentage)});
  }
  finding.details["migration_status"] = most->status;
  finding.details["throttle_percentage"] = most->throttle_percentage;
  finding.summary =
      fmt::format("a migration keeps the vCPUs from running {} % of the time ({})", most->throttle_percentage,
                  most->by_dirty_limit ? "dirty limit" : "auto-converge");
  finding.remedy.push_back(
      "give the migration more bandwidth (max-bandwidth), take to post-copy (migrate-start-postcopy), or "
      "cancel it "
      "(migrate_cancel)");
  return found(std::move(finding));
}

Opinion judge_postcopy_paused(const Case& c) {
  const bool topic = c.incident.topic == timeline::Topic::postcopy;
  const timeline::Migration* query = migration_query(c);
  const timeline::QmpEvent* event = migration_event(c, "postcopy-paused");
  if (!topic) {
    const bool state = c.is_pause() && c.run_state == "finish-migrate";
    if (!state || c.migration_status() != "postcopy-paused") return nothing();
  }
  Finding finding;
  finding.confidence = Confidence::proven;
  if (event != nullptr) finding.evidence.push_back(qmp_evidence(*event));
  add_query(c, finding);
  add_actor(c, finding);
  const timeline::Status* status = c.vm.statuses.last_in(c.begin, c.until);
  std::string side;
  if (c.run_state == "finish-migrate" || (status != nullptr && !status->running)) side = "source";
  if (status != nullptr && status->running) side = "destination";
  for (const timeline::Thread& thread : c.vm.threads) {
    if (thread.time_ns < c.begin || thread.wchan != "handle_userfault") continue;
    side = "destination";
    finding.evidence.push_back(thread_evidence(thread));
    break;
  }
  if (!side.empty()) finding.details["side"] = side;
  if (status != nullptr)
    finding.evidence.push_back({status->time_ns, "qmp", fmt::format("query-status: {}", status->state)});
  finding.summary =
      side == "destination"
          ? "post-copy lost its link: the VM 'runs', but its CPUs wait for pages that are at the source"
          : "post-copy lost its link: this side still holds pages that the destination waits for";
  finding.remedy.push_back(
      "at the destination, over a connection that negotiated oob: exec-oob migrate-recover with a "
      "new uri; then at the source: migrate with that uri and resume: true");
  finding.remedy.push_back(
      "end neither QEMU, and send no stop to the destination: it would block its main loop");
  if (event == nullptr && query == nullptr)
    finding.not_proved.push_back({"why the link broke", "nothing was seen of the network"});
  return found(std::move(finding));
}

}  // namespace vmwhy::causes
