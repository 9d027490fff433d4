// SPDX-License-Identifier: BSD-2-Clause
// Somebody asked for it: stop, save, debugger, never started, incoming, COLO.
#include <fmt/format.h>

#include <algorithm>

#include "causes/actors.hpp"
#include "causes/inside.hpp"
#include "causes/rules/rules.hpp"
#include "core/text.hpp"
#include "timeline/json_read.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {

using timeline::text_of;

namespace {

constexpr const char* kUnheard = "it came by HMP: what is typed into a human monitor is not listened to";

/// A `stop` that our own side sent just before the pause.
const timeline::Command* own_stop(const Case& c) {
  const timeline::Command* found = nullptr;
  for (const timeline::Command& command : c.vm.commands)
    if (!command.heard && command.name == "stop" && command.time_ns >= c.from && command.time_ns <= c.begin)
      found = &command;
  return found;
}

bool snapshot_type(std::string_view type) {
  return type == "snapshot-save" || type == "snapshot-load" || type == "snapshot-delete";
}

/// The snapshot job that was at work when the VM stopped, if query-jobs knows one.
const timeline::Job* snapshot_job(const Case& c) {
  const timeline::Jobs* jobs = c.vm.jobs.first_in(c.begin, c.until + timeline::kSecond);
  if (jobs == nullptr) return nullptr;
  for (const timeline::Job& job : jobs->jobs) {
    if (!snapshot_type(job.type)) continue;
    // Old jobs stay listed until they are dismissed: one counts that changed with this pause.
    const timeline::Bounded<timeline::QmpEvent>* changes = c.vm.events_named("JOB_STATUS_CHANGE");
    if (changes == nullptr) continue;
    for (const timeline::QmpEvent& change : *changes)
      if (text_of(change.data, "id", 64) == job.id && change.time_ns + timeline::kSecond >= c.begin &&
          change.time_ns <= c.until + timeline::kSecond)
        return &job;
  }
  return nullptr;
}

void add_job(const Case& c, const timeline::Job& job, bool restoring, Finding& finding) {
  finding.confidence = Confidence::proven;
  const bool failed = !job.error.empty();
  if (!restoring || failed)
    finding.summary = fmt::format("the job '{}' ({}) stopped the VM{}", job.id, job.type,
                                  failed ? " and failed: " + job.error : "");
  finding.details["job"] = job.id;
  finding.details["job_type"] = job.type;
  finding.details["job_status"] = job.status;
  if (failed) finding.details["job_error"] = job.error;
  if (const timeline::Jobs* jobs = c.vm.jobs.first_in(c.begin, c.until + timeline::kSecond))
    finding.evidence.push_back({jobs->time_ns, "qmp",
                                fmt::format("query-jobs: {} '{}' {}{}", job.type, job.id, job.status,
                                            failed ? ": " + job.error : "")});
  if (const timeline::QmpEvent* change = c.event("JOB_STATUS_CHANGE"))
    finding.evidence.push_back(qmp_evidence(*change));
}

}  // namespace

Opinion judge_operator_stop(const Case& c) {
  if (!c.is_pause()) return nothing();
  const timeline::Command* own = own_stop(c);
  const Act act = last_act(c.vm, {"stop"}, c.from, c.begin);
  if (!c.paused_in("paused") && own == nullptr && (!act || !c.run_state.empty())) {
    return nothing();
  }
  if (c.is_storage_error())
    return against("operator-stop", "the I/O error came before the STOP, and stops the VM by itself");
  const StopPath path = find_stop(c);
  if (own == nullptr && !act && stopped_by_no_monitor(c, path))
    return against("operator-stop", "QEMU's vm_stop was not called for a monitor's command");
  Finding finding;
  finding.summary = "a client of QEMU's monitor, or a debugger on its gdb server, stopped the VM";
  if (own != nullptr) {
    finding.confidence = Confidence::proven;
    finding.summary = "the tool that recorded this trace sent stop";
    finding.evidence.push_back({own->time_ns, "qmp", fmt::format("stop was sent on link {}", own->link)});
    finding.details["sender"] = "this trace's recorder";
  } else if (act) {
    finding.confidence = Confidence::proven;
    finding.summary = act.who() + " sent stop to QEMU's monitor";
    name_actor(act, finding);
  } else if (path.command != nullptr || path.by_hmp) {
    finding.confidence = Confidence::proven;
    finding.summary = path.by_hmp ? "somebody stopped the VM by HMP, the human monitor"
                                  : "a client of QEMU's monitor sent stop";
    finding.details["by"] = path.by_hmp ? "hmp" : "qmp";
    finding.not_proved.push_back({"who sent stop", path.by_hmp ? kUnheard : no_actor(c)});
  } else {
    finding.not_proved.push_back(
        {"who sent stop",
         no_actor(c, ". A gdb that attaches and a dump of the guest's memory look the same")});
  }
  if (path) finding.evidence.push_back(call_evidence(*path.origin));
  std::string holders;
  for (const timeline::Monitor& monitor : c.vm.monitors) {
    if (!monitor.held || monitor.held_by_comm.empty()) continue;
    if (!holders.empty()) holders += ", ";
    holders += fmt::format("{} ({})", monitor.held_by_comm, monitor.held_by_pid);
  }
  if (!holders.empty()) {
    finding.details["monitor_holders"] = holders;
    finding.evidence.push_back({c.begin, "proc", "connected to its monitors at the last look: " + holders});
  }
  if (c.storage.error != nullptr && c.storage.after_stop) {
    finding.summary += "; a request that was under way then failed";
    finding.evidence.push_back(qmp_evidence(*c.storage.error));
    finding.details["pending_io_error"] = c.storage.reason;
    finding.remedy.push_back(
        "mend the storage first: cont retries the failed request, and lands in io-error at once");
  }
  finding.remedy.push_back("ask whoever manages the VM; to let it go on: " + qmp_call(c, "cont"));
  if (!c.vm.owner.empty() && c.vm.owner != "plain") finding.details["owner"] = c.vm.owner;
  return found(std::move(finding));
}

namespace {

/// What a client's command does to the VM.
void tell_saving(const Saving& saving, Finding& finding) {
  const std::string& name = saving.save.command->name;
  const std::string_view line = saving.save.command->line;
  const bool dump = name == "dump-guest-memory" || line.starts_with("dump-guest-memory");
  const bool load = name == "snapshot-load" || line.starts_with("loadvm");
  const bool migrate = name == "migrate";
  finding.confidence = Confidence::proven;
  finding.details["phase"] = dump ? "dump" : load ? "restore" : "save";
  if (finding.summary.empty()) {
    const char* what = migrate ? "its state written into a file or descriptor"
                       : dump  ? "its memory dumped"
                       : load  ? "a snapshot loaded"
                               : "a snapshot of it saved";
    finding.summary = saving.stop ? fmt::format("{} stopped the VM and had {}", saving.save.who(), what)
                                  : fmt::format("{} had {}", saving.save.who(), what);
  } else {
    finding.summary += ", as " + saving.save.who() + " asked";
  }
  if (saving.stop) finding.evidence.push_back(saving.stop.evidence());
  name_actor(saving.save, finding);
  if (!migrate) return;
  finding.not_proved.push_back(
      {"what for", "virsh save, managedsave, dump and snapshot, and a tunnelled migration, all do so"});
  finding.remedy.emplace_back(
      "wait for it to end; a VM that was saved is gone until it is restored (virsh restore, virsh start)");
}

}  // namespace

namespace {

/// A dump of the guest's memory that ended with this pause, or while it lasts.
const timeline::QmpEvent* dump_completed(const Case& c) {
  // It is told at the resume, or just behind it, when that was seen.
  const std::uint64_t last = c.until + (c.incident.end_ns ? timeline::kSecond / 20 : timeline::kSecond);
  const timeline::QmpEvent* dump = c.vm.first_event("DUMP_COMPLETED", c.begin, last);
  // Another stop in between: it belongs to that one.
  if (dump == nullptr || c.vm.first_event("STOP", c.begin + 1, dump->time_ns) != nullptr) return nullptr;
  return dump;
}

}  // namespace

Opinion judge_snapshot_or_save(const Case& c) {
  if (!c.is_pause()) return nothing();
  const timeline::Job* job = snapshot_job(c);
  const timeline::QmpEvent* dump = dump_completed(c);
  const StopPath path = find_stop(c);
  const bool dumps = path && path.origin->called_by("qmp_dump_guest_memory");
  const Saving asked = find_saving(c);
  const bool saving = c.run_state == "save-vm";
  const bool restoring = c.run_state == "restore-vm";
  if (!saving && !restoring && job == nullptr && dump == nullptr && !asked && !dumps) return nothing();
  Finding finding;
  finding.confidence = Confidence::likely;
  if (restoring) {
    finding.confidence = Confidence::proven;
    finding.summary =
        "a snapshot is being loaded, or its loading failed: QEMU then stays stopped in restore-vm";
    finding.details["phase"] = "restore";
    finding.remedy.push_back(
        "if the load failed: load another snapshot, or reset the VM. cont after a failed load "
        "runs a VM whose state may be half loaded");
  } else if (dumps || dump != nullptr) {
    finding.confidence = dumps ? Confidence::proven : Confidence::likely;
    finding.summary = "the guest's memory was dumped";
    finding.details["phase"] = "dump";
    if (dump != nullptr) finding.evidence.push_back(qmp_evidence(*dump));
  } else if (saving) {
    finding.confidence = Confidence::proven;
    finding.summary = "a snapshot is being saved";
    finding.details["phase"] = "save";
    if (!path || path.origin->callers.empty())
      finding.not_proved.push_back(
          {"that it was no dump of the guest's memory", "it has the same run state"});
  }
  if (path) finding.evidence.push_back(call_evidence(*path.origin));
  if (job != nullptr) add_job(c, *job, restoring, finding);
  if (asked) {
    tell_saving(asked, finding);
  } else {
    finding.not_proved.push_back({"who asked for it", path.by_hmp ? kUnheard : no_actor(c)});
  }
  if (finding.remedy.empty()) finding.remedy.push_back("wait: the VM goes on by itself when it is done");
  return found(std::move(finding));
}

namespace {

/// A debugger that attaches to QEMU's gdb server, or interrupts the guest, stops it as `stop` does.
Opinion judge_gdb_interrupt(const Case& c) {
  const StopPath path = find_stop(c);
  const bool asked = own_stop(c) != nullptr || last_act(c.vm, {"stop"}, c.from, c.begin);
  if (asked || c.is_storage_error() || !stopped_by_no_monitor(c, path)) return nothing();
  const bool named = std::any_of(path.origin->callers.begin(), path.origin->callers.end(),
                                 [](const std::string& caller) { return caller.starts_with("gdb_"); });
  Finding finding;
  finding.confidence = named ? Confidence::proven : Confidence::likely;
  finding.summary = "a debugger on QEMU's gdb server attached, or interrupted the guest";
  finding.details["debugger"] = "gdbstub";
  finding.evidence.push_back(call_evidence(*path.origin));
  if (!named)
    finding.not_proved.push_back({"that it was the gdb server",
                                  "no monitor's command led to vm_stop, which leaves it alone as far as is "
                                  "known; this QEMU has no name for the function that called"});
  finding.not_proved.push_back({"who is connected to the gdb server", "QEMU does not say"});
  finding.remedy.push_back("continue in the debugger, or detach it; " + qmp_call(c, "cont") +
                           " works too, under the debugger's feet");
  return found(std::move(finding));
}

}  // namespace

Opinion judge_debugger(const Case& c) {
  if (c.paused_in("debug")) {
    Finding finding;
    finding.confidence = Confidence::proven;
    finding.summary =
        "a debugger on QEMU's gdb server holds the guest (breakpoint, watchpoint or single step)";
    finding.details["debugger"] = "gdbstub";
    finding.remedy.push_back("continue in the debugger, or detach it; " + qmp_call(c, "cont") +
                             " works too, under the debugger's feet");
    finding.not_proved.push_back({"who is connected to the gdb server", "QEMU does not say"});
    if (const StopPath path = find_stop(c)) finding.evidence.push_back(call_evidence(*path.origin));
    return found(std::move(finding));
  }
  if (c.paused_in("paused")) return judge_gdb_interrupt(c);
  if (!c.is_stall()) return nothing();
  for (const timeline::Process& process : c.vm.processes) {
    if (process.time_ns < c.begin || process.time_ns > c.until + timeline::kSecond) continue;
    if (static_cast<char>(process.state.state) != 't' || process.state.tracer_pid == 0) continue;
    Finding finding;
    finding.confidence = Confidence::proven;
    finding.summary = fmt::format("process {} ({}) traces QEMU and holds it stopped",
                                  process.state.tracer_pid, process.tracer);
    finding.details["debugger"] = "ptrace";
    finding.details["tracer_pid"] = process.state.tracer_pid;
    finding.details["tracer"] = process.tracer;
    finding.evidence.push_back({process.time_ns, "proc",
                                fmt::format("process {} is in t (tracing stop), TracerPid {} ({})",
                                            process.state.pid, process.state.tracer_pid, process.tracer)});
    finding.remedy.push_back(
        fmt::format("detach the debugger, or end it: kill {}", process.state.tracer_pid));
    return found(std::move(finding));
  }
  return nothing();
}

Opinion judge_incoming_wait(const Case& c) {
  if (!c.paused_in("inmigrate")) return nothing();
  Finding finding;
  finding.confidence = Confidence::proven;
  finding.summary = "QEMU waits for the VM to be migrated to it";
  const std::string status = c.migration_status();
  if (!status.empty()) {
    finding.details["migration_status"] = status;
    finding.summary = fmt::format("the VM is being migrated to this QEMU (migration {})", status);
  }
  finding.remedy.push_back(
      "look at the migration's source; a cont here only arms the start after the migration");
  return found(std::move(finding));
}

Opinion judge_never_started(const Case& c) {
  if (!c.paused_in("prelaunch")) return nothing();
  const timeline::QmpEvent* reset = c.vm.first_event("RESET", 0, c.until);
  if (c.incident.trigger == "STOP" || reset != nullptr || !c.incident.began_before_watch)
    return against("never-started",
                   "the VM ran, or was reset, in this trace: a reset of a stopped VM gives "
                   "prelaunch too");
  Finding finding;
  finding.confidence = Confidence::likely;
  finding.summary = "QEMU was started with its CPUs stopped (-S, or --preconfig), and nobody sent cont yet";
  finding.remedy.push_back("to start it: " + qmp_call(c, "cont"));
  finding.not_proved.push_back(
      {"that it never ran", "the watch began later, and a reset of a stopped VM gives prelaunch too"});
  return found(std::move(finding));
}

Opinion judge_colo(const Case& c) {
  const timeline::QmpEvent* exit = c.vm.last_event("COLO_EXIT", c.from, c.until);
  if (!c.paused_in("colo")) return nothing();
  Finding finding;
  finding.confidence = Confidence::proven;
  finding.summary = "COLO holds the VM for a checkpoint";
  if (exit != nullptr) finding.evidence.push_back(qmp_evidence(*exit));
  finding.remedy.push_back("look at the other side of the COLO pair");
  return found(std::move(finding));
}

}  // namespace vmwhy::causes
