// SPDX-License-Identifier: BSD-2-Clause
// The guest did it.
#include <fmt/format.h>

#include <boost/json/serialize.hpp>

#include "causes/inside.hpp"
#include "causes/rules/rules.hpp"
#include "core/text.hpp"
#include "timeline/json_read.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {

using timeline::text_of;
using timeline::Topic;

namespace {

/// QEMU is asked for a reset, and tells of it when it has done so.
constexpr std::uint64_t kResetAhead = timeline::kSecond;

/// The SHUTDOWN event of a pause in `shutdown`, or of the QEMU that ended.
const timeline::QmpEvent* shutdown_event(const Case& c) {
  if (!c.is_pause() && !c.is_exit()) return nullptr;
  return c.vm.last_event("SHUTDOWN", c.from, c.begin + timeline::kSecond);
}

bool guest_topic(const Case& c, std::string_view event) {
  return c.incident.topic == Topic::guest_event && c.incident.trigger == event;
}

}  // namespace

Opinion judge_guest_panic(const Case& c) {
  const bool went_on = guest_topic(c, "GUEST_PANICKED");
  if (!went_on && !c.is_pause() && !c.is_exit()) return nothing();
  const timeline::QmpEvent* event = c.event("GUEST_PANICKED");
  const timeline::QmpEvent* shutdown = shutdown_event(c);
  const bool by_shutdown = shutdown != nullptr && text_of(shutdown->data, "reason", 32) == "guest-panic";
  const bool state = c.paused_in("guest-panicked");
  if (!went_on && !state && !by_shutdown && !(event != nullptr && c.is_exit())) {
    return nothing();
  }
  Finding finding;
  finding.confidence = event != nullptr || by_shutdown ? Confidence::proven : Confidence::likely;
  finding.summary = "the guest's kernel panicked and told QEMU so";
  if (event != nullptr) {
    finding.evidence.push_back(qmp_evidence(*event));
    finding.details["action"] = text_of(event->data, "action", 32);
    if (const boost::json::object* info = timeline::object_of(event->data, "info"))
      finding.details["info"] = *info;
  }
  if (by_shutdown) finding.evidence.push_back(qmp_evidence(*shutdown));
  if (event == nullptr && !by_shutdown)
    finding.not_proved.push_back({"when it panicked", "its GUEST_PANICKED event came before the watch"});
  finding.not_proved.push_back({"why the guest panicked", "look at its console or its crash dump"});
  if (c.is_pause())
    finding.remedy.push_back("to keep the guest's state: " + qmp_call(c, "dump-guest-memory") +
                             " (see its arguments); then reset it");
  else
    finding.remedy.push_back("read the guest's console and crash dump");
  return found(std::move(finding));
}

Opinion judge_guest_crash_loaded(const Case& c) {
  if (!guest_topic(c, "GUEST_CRASHLOADED") && !c.is_pause()) return nothing();
  const timeline::QmpEvent* event = c.event("GUEST_CRASHLOADED");
  if (event == nullptr || (c.is_pause() && c.run_state != "guest-panicked")) return nothing();
  Finding finding;
  finding.confidence = Confidence::proven;
  finding.summary = "the guest's kernel crashed, and its crash kernel took over (kdump)";
  finding.evidence.push_back(qmp_evidence(*event));
  finding.details["action"] = text_of(event->data, "action", 32);
  finding.not_proved.push_back({"why the guest crashed", "its crash dump will say"});
  finding.remedy.push_back("let the crash kernel finish its dump; do not reset the guest now");
  return found(std::move(finding));
}

Opinion judge_guest_watchdog(const Case& c) {
  const bool went_on = guest_topic(c, "WATCHDOG");
  if (!went_on && !c.is_pause() && !c.is_exit()) return nothing();
  const timeline::QmpEvent* event = c.event("WATCHDOG");
  const bool state = c.paused_in("watchdog");
  if (c.is_exit() && (event == nullptr || text_of(event->data, "action", 32) == "none")) return nothing();
  if (!went_on && !state && !c.is_exit()) {
    return nothing();
  }
  Finding finding;
  finding.confidence = event != nullptr ? Confidence::proven : Confidence::likely;
  finding.summary = "the guest stopped feeding its watchdog";
  if (event != nullptr) {
    const std::string action = text_of(event->data, "action", 32);
    finding.evidence.push_back(qmp_evidence(*event));
    finding.details["action"] = action;
    finding.summary += fmt::format("; QEMU's action: {}", action);
  } else {
    finding.not_proved.push_back({"when the watchdog fired", "its event came before the watch"});
  }
  if (went_on) finding.details["count"] = c.incident.count;
  finding.not_proved.push_back({"why the guest did not feed it",
                                "a hang in the guest and a starved vCPU look the same "
                                "from here"});
  finding.remedy.push_back(
      c.is_pause() ? "look at the guest's console, dump its memory if it matters; to let it go on: " +
                         qmp_call(c, "cont")
                   : std::string("look at the guest's console from before the watchdog fired"));
  return found(std::move(finding));
}

Opinion judge_guest_shutdown(const Case& c) {
  // A pause that was over before the guest shut down has another cause.
  if (c.is_pause() && !c.run_state.empty() && c.run_state != "shutdown") return nothing();
  const timeline::QmpEvent* event = shutdown_event(c);
  const std::string reason = event != nullptr ? text_of(event->data, "reason", 32) : std::string();
  const bool by_guest = reason == "guest-shutdown" || reason == "guest-reset" || reason == "subsystem-reset";
  if (!by_guest && !(c.paused_in("shutdown") && event == nullptr)) {
    if (c.is_exit() && !reason.empty()) return against("guest-shutdown", "QEMU gives the reason " + reason);
    return nothing();
  }
  Finding finding;
  // A reset that was turned into a shutdown may not have been the guest's wish.
  finding.confidence = by_guest && reason != "guest-reset" ? Confidence::proven : Confidence::likely;
  finding.summary = "the guest shut down";
  if (reason == "guest-reset")
    finding.summary = "the guest was reset, which QEMU was told (-no-reboot) to take for a shutdown";
  if (event != nullptr) {
    finding.evidence.push_back(qmp_evidence(*event));
    finding.details["reason"] = reason;
  } else {
    finding.not_proved.push_back({"who shut it down", "the SHUTDOWN event came before the watch"});
  }
  if (reason == "guest-reset")
    finding.not_proved.push_back({"whether it asked for the reset",
                                  "a triple fault, port 0xcf9 and the keyboard "
                                  "controller's reset look the same in QMP"});
  if (c.is_pause()) {
    finding.summary += "; QEMU was told to stay (-no-shutdown)";
    finding.remedy.push_back("to start it again: " + qmp_call(c, "system_reset") +
                             ", then cont; otherwise quit");
  } else {
    finding.remedy.push_back("nothing, if the guest was meant to");
  }
  return found(std::move(finding));
}

Opinion judge_guest_suspended(const Case& c) {
  if (!c.is_pause()) return nothing();
  const timeline::QmpEvent* event = c.incident.trigger == "SUSPEND"
                                        ? c.vm.first_event("SUSPEND", c.begin, c.begin)
                                        : c.vm.last_event("SUSPEND", c.from, c.begin);
  const bool disk = c.event("SUSPEND_DISK") != nullptr;
  if (c.run_state != "suspended" && c.incident.trigger != "SUSPEND") return nothing();
  Finding finding;
  finding.confidence = event != nullptr ? Confidence::proven : Confidence::likely;
  finding.summary = "the guest suspended itself to memory (S3)";
  if (disk) finding.details["disk"] = true;
  if (event != nullptr)
    finding.evidence.push_back(qmp_evidence(*event));
  else
    finding.not_proved.push_back({"when it suspended", "its SUSPEND event came before the watch"});
  finding.remedy.push_back("to wake it: " + qmp_call(c, "system_wakeup") +
                           "; stop and cont do nothing to it");
  return found(std::move(finding));
}

namespace {

std::string count_resets(const Case& c) {
  const auto span = static_cast<std::int64_t>(c.incident.last_ns - c.incident.begin_ns);
  return fmt::format("{} times within {}", c.incident.count, human_duration(span));
}

void add_resets(const Case& c, Finding& finding) {
  finding.details["resets"] = c.incident.count;
  finding.details["window_ns"] = c.incident.last_ns - c.incident.begin_ns;
  const timeline::Bounded<timeline::QmpEvent>* resets = c.vm.events_named("RESET");
  if (resets == nullptr) return;
  std::size_t shown = 0;
  for (const timeline::QmpEvent& reset : *resets) {
    if (reset.time_ns < c.begin || reset.time_ns > c.until || shown >= 6) continue;
    if (shown == 0) finding.details["reason"] = text_of(reset.data, "reason", 32);
    finding.evidence.push_back(qmp_evidence(reset));
    ++shown;
  }
}

}  // namespace

Opinion judge_guest_reset_loop(const Case& c) {
  if (c.incident.topic != Topic::reset_loop) return nothing();
  Finding finding;
  finding.confidence = Confidence::proven;
  finding.summary = fmt::format("the guest was reset {}, by itself each time", count_resets(c));
  add_resets(c, finding);
  if (const timeline::QemuCall* call = guest_reset(c.vm, c.begin - std::min(c.begin, kResetAhead), c.until))
    finding.evidence.push_back(call_evidence(*call));
  finding.not_proved.push_back({"what resets it",
                                "a triple fault, port 0xcf9, the keyboard controller and a watchdog's "
                                "reset look the same in QMP"});
  finding.remedy.push_back(
      "look at the guest's console and boot loader; -no-reboot -no-shutdown keeps it at the first reset");
  return found(std::move(finding));
}

Opinion judge_guest_triple_fault(const Case& c) {
  const bool loop = c.incident.topic == Topic::reset_loop;
  const timeline::QmpEvent* shutdown = shutdown_event(c);
  const bool reset = shutdown != nullptr && text_of(shutdown->data, "reason", 32) == "guest-reset";
  if (!loop && !reset) return nothing();
  const std::vector<std::string> lines = lines_with(c.log_text(), "riple fault", 2);
  const timeline::QmpEvent* mce = c.vm.last_event("MEMORY_FAILURE", c.from, c.until);
  const bool by_mce = mce != nullptr && text_of(mce->data, "action", 16) == "reset";
  const timeline::QemuCall* call = guest_reset(c.vm, c.from, c.until);
  const bool raised = call != nullptr &&
                      (call->called_by("raise_exception_err") || call->called_by("raise_exception_err_ra"));
  if (lines.empty() && !by_mce && !raised) return nothing();
  Finding finding;
  finding.confidence = raised ? Confidence::proven : Confidence::likely;
  if (call != nullptr) finding.evidence.push_back(call_evidence(*call));
  finding.summary = "the guest's CPU ran into a triple fault: it could not deliver an exception";
  if (loop) {
    finding.summary += fmt::format("; it was reset {}", count_resets(c));
    add_resets(c, finding);
  }
  for (const std::string& line : lines) finding.evidence.push_back(log_evidence(*c.log(), line));
  if (by_mce) finding.evidence.push_back(qmp_evidence(*mce));
  if (shutdown != nullptr) finding.evidence.push_back(qmp_evidence(*shutdown));
  if (!raised)
    finding.not_proved.push_back({"that this reset was that fault", "the vCPU's exits were not watched"});
  finding.remedy.push_back("the guest's kernel or firmware broke its own tables: look at its console");
  return found(std::move(finding));
}

}  // namespace vmwhy::causes
