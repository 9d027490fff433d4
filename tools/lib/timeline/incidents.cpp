// SPDX-License-Identifier: BSD-2-Clause
#include "timeline/incidents.hpp"

#include <algorithm>

#include "timeline/json_read.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::timeline {

Incident* Incidents::open_of(std::uint32_t vm, Topic topic) {
  auto at = open_.find({vm, topic});
  return at == open_.end() ? nullptr : &incidents_.at(at->second);
}

Incident& Incidents::open(std::uint32_t vm, Topic topic, Kind kind, std::string trigger,
                          std::uint64_t begin_ns, std::uint64_t now_ns) {
  const std::uint64_t id = next_id_++;
  Incident& incident = incidents_[id];
  incident.id = id;
  incident.vm = vm;
  incident.kind = kind;
  incident.topic = topic;
  incident.trigger = std::move(trigger);
  incident.begin_ns = incident.last_ns = begin_ns;
  incident.earliest_ns = begin_ns - std::min(begin_ns, kLookBack);
  incident.opened_ns = now_ns;
  open_[{vm, topic}] = id;
  changes_.push_back({IncidentChange::What::opened, id, vm});
  return incident;
}

void Incidents::close(Incident& incident, std::uint64_t end_ns, std::string ended_by, bool silent) {
  incident.end_ns = std::max(end_ns, incident.begin_ns);
  incident.ended_by = std::move(ended_by);
  open_.erase({incident.vm, incident.topic});
  if (!silent) changes_.push_back({IncidentChange::What::closed, incident.id, incident.vm});
}

std::vector<IncidentChange> Incidents::take_changes() {
  return std::exchange(changes_, {});
}

const Incident* Incidents::find(std::uint64_t id) const {
  auto at = incidents_.find(id);
  return at == incidents_.end() ? nullptr : &at->second;
}

void Incidents::forget(std::uint64_t id) {
  incidents_.erase(id);
}

void Incidents::on_qmp(VmTracks& vm, const QmpFact& fact, std::uint64_t now_ns) {
  if (fact.event != nullptr) on_event(vm, *fact.event, now_ns);
  if (fact.reply) on_reply(vm, fact, now_ns);
  if (fact.status != nullptr) on_status(vm, *fact.status);
  if (fact.migration != nullptr) on_migration(vm, *fact.migration, now_ns);
}

void Incidents::on_event(VmTracks& vm, const QmpEvent& event, std::uint64_t now_ns) {
  if (vm.ended) return;
  if (event.name == "STOP") return on_stop(vm, event, now_ns);
  if (event.name == "RESUME") return on_resume(vm, event);
  if (event.name == "SUSPEND") return on_suspend(vm, event, now_ns);
  if (event.name == "WAKEUP") return on_resume(vm, event);
  if (event.name == "RESET") return on_reset(vm, event, now_ns);
  if (event.name == "MIGRATION") return on_migration_event(vm, event, now_ns);
  on_guest_event(vm, event, now_ns);
}

namespace {

void set_state(VmTracks& vm, std::uint64_t time_ns, std::string state) {
  if (!vm.states.empty()) {
    // The list keeps spans whole: the last one is ended by beginning the next.
    const StateSpan last = vm.states.back();
    if (last.state == state || time_ns < last.time_ns) return;
  }
  vm.states.add({time_ns, 0, std::move(state)});
}

bool stopping_error_in(const VmTracks& vm, std::uint64_t from, std::uint64_t until) {
  const Bounded<QmpEvent>* errors = vm.events_named("BLOCK_IO_ERROR");
  if (errors == nullptr) return false;
  return std::any_of(errors->begin(), errors->end(), [&](const QmpEvent& error) {
    return error.time_ns >= from && error.time_ns <= until && text_of(error.data, "action") == "stop";
  });
}

}  // namespace

void Incidents::on_stop(VmTracks& vm, const QmpEvent& event, std::uint64_t now_ns) {
  State& state = states_[vm.id];
  const std::uint64_t time = event.time_ns;
  forget_unheard(state, time);
  // Events come in their order: of those before this one no more will be told.
  settle_unheard(vm, state, time, now_ns);
  if (time < state.last_transition_ns && time < state.last_resume_ns) return;  // An older pause's, late.
  set_state(vm, time, "stopped");
  Incident* pause = open_of(vm.id, Topic::pause);
  if (pause != nullptr) {
    if (pause->trigger == "query-status" && time <= pause->opened_ns) {
      // A reply overtook the event: this is when it really began.
      pause->trigger = "STOP";
      pause->begin_ns = pause->last_ns = time;
      pause->began_before_watch = false;
      state.last_transition_ns = std::max(state.last_transition_ns, time);
      return;
    }
    if (pause->trigger == "SUSPEND" || time <= pause->begin_ns || is_same_stop(*pause, time)) return;
    // QEMU says STOP only when it had been running.
    close(*pause, time, "a RESUME that was not seen");
  }
  const std::uint64_t since = std::max(state.last_resume_ns, time - std::min(time, kLookBack));
  state.last_transition_ns = std::max(state.last_transition_ns, time);
  const bool by_error = stopping_error_in(vm, since, time);
  if (Incident* loop = open_of(vm.id, Topic::pause_loop); loop != nullptr && by_error) {
    ++loop->count;
    loop->last_ns = time;
    state.folded_stop_ns = time;
    return;
  }
  Incident& found = open(vm.id, Topic::pause, Kind::pause, "STOP", time, now_ns);
  found.earliest_ns = since;
  found.run_state = state_set_at(vm, time);
  if (by_error) open_pause_loop(vm, state, time, now_ns);
}

void Incidents::open_pause_loop(const VmTracks& vm, State& state, std::uint64_t stop_ns,
                                std::uint64_t now_ns) {
  std::deque<std::uint64_t>& recent = state.error_pauses;
  while (!recent.empty() && recent.front() + kPauseLoopWindow < stop_ns) recent.pop_front();
  if (recent.size() + 1 < kPauseLoopCount) return;
  Incident& loop = open(vm.id, Topic::pause_loop, Kind::event, "STOP", recent.front(), now_ns);
  loop.count = recent.size() + 1;
  loop.last_ns = stop_ns;
  ticking_.insert(vm.id);
}

void Incidents::on_resume(VmTracks& vm, const QmpEvent& event) {
  State& state = states_[vm.id];
  const std::uint64_t time = event.time_ns;
  set_state(vm, time, "running");
  state.last_transition_ns = std::max(state.last_transition_ns, time);
  if (event.name == "RESUME") state.last_resume_ns = std::max(state.last_resume_ns, time);
  if (event.name == "RESUME") end_unheard(state, time, "RESUME");
  if (state.folded_stop_ns != 0 && time >= state.folded_stop_ns) state.folded_stop_ns = 0;

  Incident* pause = open_of(vm.id, Topic::pause);
  if (pause != nullptr) {
    // The reply that showed the pause was made before it came: a RESUME may lie between.
    const std::uint64_t begin = pause->trigger == "query-status" ? pause->earliest_ns : pause->begin_ns;
    if (time < begin) return;
    if (pause->trigger == "STOP" && stopping_error_in(vm, pause->earliest_ns, pause->begin_ns)) {
      state.error_pauses.push_back(pause->begin_ns);
      if (state.error_pauses.size() > kPauseLoopCount) state.error_pauses.pop_front();
    }
    close(*pause, time, event.name);
    return;
  }
  // A query-status that said running, or QEMU's function, closed it before this event could: it knows when.
  for (auto at = incidents_.rbegin(); at != incidents_.rend(); ++at) {
    Incident& last = at->second;
    if (last.vm != vm.id || last.topic != Topic::pause || !last.end_ns) continue;
    const bool before = last.ended_by == kEndedByStatus || last.ended_by == kRunStateSet;
    if (before && time >= last.begin_ns && time <= *last.end_ns) {
      last.end_ns = time;
      last.ended_by = event.name;
    }
    break;
  }
}

void Incidents::on_suspend(VmTracks& vm, const QmpEvent& event, std::uint64_t now_ns) {
  State& state = states_[vm.id];
  set_state(vm, event.time_ns, "suspended");
  forget_unheard(state, event.time_ns);
  if (open_of(vm.id, Topic::pause) != nullptr || event.time_ns < state.last_transition_ns) return;
  state.last_transition_ns = event.time_ns;
  open(vm.id, Topic::pause, Kind::pause, "SUSPEND", event.time_ns, now_ns);
}

void Incidents::on_status(VmTracks& vm, const Status& status) {
  if (vm.ended) return;
  State& state = states_[vm.id];
  const std::uint64_t sent = status.sent_ns != 0 ? status.sent_ns : status.time_ns;
  const bool first = !std::exchange(state.status_seen, true);
  // Its event would have come before this reply.
  if (!status.running) settle_unheard(vm, state, sent, status.time_ns);
  Incident* pause = open_of(vm.id, Topic::pause);
  if (status.running) {
    if (sent < state.last_transition_ns) return;
    set_state(vm, status.time_ns, status.state);
    state.last_running_ns = std::max(state.last_running_ns, sent);
    state.folded_stop_ns = 0;
    if (pause != nullptr && sent > pause->begin_ns) close(*pause, status.time_ns, kEndedByStatus);
    return;
  }
  if (pause != nullptr) {
    if (pause->run_state.empty() && sent >= pause->earliest_ns && status.time_ns >= pause->begin_ns) {
      pause->run_state = status.state;
      set_state(vm, status.time_ns, status.state);
    }
    return;
  }
  if (state.folded_stop_ns != 0 || sent < state.last_transition_ns) return;
  set_state(vm, status.time_ns, status.state);
  Incident& found = open(vm.id, Topic::pause, Kind::pause, "query-status", status.time_ns, status.time_ns);
  found.run_state = status.state;
  found.began_before_watch = first && state.last_transition_ns == 0;
  found.earliest_ns = found.began_before_watch ? sent - std::min(sent, kLookBack)
                                               : std::max(state.last_running_ns, state.last_resume_ns);
}

void Incidents::on_end(VmTracks& vm) {
  std::vector<std::uint64_t> open_ids;
  for (const auto& [key, id] : open_)
    if (key.first == vm.id) open_ids.push_back(id);
  for (std::uint64_t id : open_ids) close(incidents_.at(id), vm.ended->time_ns, "QEMU ended");
  State& state = states_[vm.id];
  state.closed_ns = state.client_gone_ns = 0;
  state.folded_stop_ns = 0;
  state.unheard.clear();
  ticking_.erase(vm.id);
  Incident& exit = open(vm.id, Topic::exit, Kind::exit, "process gone", vm.ended->time_ns, vm.ended->time_ns);
  exit.earliest_ns = exit.begin_ns - std::min(exit.begin_ns, kLookBack);
}

void Incidents::on_collected(std::uint32_t vm, std::uint64_t began_ns, std::uint64_t now_ns,
                             std::uint32_t overdue, std::string_view unfinished) {
  for (auto& [id, incident] : incidents_) {
    if (incident.vm != vm || incident.collected || incident.opened_ns > began_ns) continue;
    incident.collected = true;
    incident.collected_ns = now_ns;
    incident.overdue_steps = overdue;
    incident.unfinished = unfinished.substr(0, 1024);
    changes_.push_back({IncidentChange::What::collected, id, vm});
  }
}

}  // namespace vmwhy::timeline
