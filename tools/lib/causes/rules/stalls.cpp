// SPDX-License-Identifier: BSD-2-Clause
// No event says so: hung storage, a stuck main loop, a frozen process, a lost monitor.
#include <fmt/format.h>

#include <algorithm>

#include "causes/rules/rules.hpp"
#include "causes/rules/storage_common.hpp"
#include "causes/rules/threads.hpp"
#include "core/text.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {
namespace {

constexpr unsigned kQmpReasons = timeline::kNoReply | timeline::kNoGreeting;

const timeline::Thread* main_thread(const Case& c) {
  for (const timeline::Thread* thread : threads_of(c))
    if (thread->state.role == static_cast<std::uint32_t>(trace::ThreadRole::main) ||
        (c.vm.pid != 0 && thread->state.tid == c.vm.pid))
      return thread;
  return nullptr;
}

std::vector<const timeline::LinkChange*> link_changes(const Case& c) {
  std::vector<const timeline::LinkChange*> changes;
  for (const timeline::LinkChange& change : c.vm.link_changes)
    if (change.time_ns >= c.begin && change.time_ns <= c.until + timeline::kSecond)
      changes.push_back(&change);
  return changes;
}

Evidence link_evidence(const timeline::LinkChange& change) {
  const std::string waited = human_duration(static_cast<std::int64_t>(change.waited_ns));
  std::string text = change.address + ": ";
  switch (change.state) {
    case trace::QmpLinkState::ready:
      text += "connected";
      break;
    case trace::QmpLinkState::refused:
      text += "refused" + (change.detail.empty() ? std::string() : ": " + change.detail);
      break;
    case trace::QmpLinkState::connect_timeout:
      text += fmt::format("no connection within {}", waited);
      break;
    case trace::QmpLinkState::greeting_missing:
      text += fmt::format("connected, but no greeting within {}", waited);
      break;
    case trace::QmpLinkState::negotiation_timeout:
      text += fmt::format("greeting, but no reply to qmp_capabilities within {}", waited);
      break;
    case trace::QmpLinkState::reply_overdue:
      text += fmt::format("no reply to {} within {}", change.detail, waited);
      break;
    case trace::QmpLinkState::reply_late:
      text += fmt::format("the reply to {} came after {}", change.detail, waited);
      break;
    case trace::QmpLinkState::closed:
      text += "closed" + (change.detail.empty() ? std::string() : ": " + change.detail);
      break;
    case trace::QmpLinkState::held:
      text += "held by another client";
      break;
    case trace::QmpLinkState::not_qmp:
      text += "does not speak QMP";
      break;
  }
  return {change.time_ns, "qmp", text};
}

void add_frozen_threads(const Case& c, Finding& finding) {
  std::size_t shown = 0;
  for (const timeline::Thread* thread : threads_of(c)) {
    const bool frozen = refrigerated(*thread) || letter(*thread) == 'T' || letter(*thread) == 't' ||
                        contains(thread->wchan, "do_signal_stop") || contains(thread->wchan, "get_signal");
    if (frozen && shown++ < 2) finding.evidence.push_back(thread_evidence(*thread));
  }
}

void name_sender(const Case& c, Finding& finding) {
  const timeline::ProcessSignal* signal = stopping_signal(c);
  if (signal == nullptr) return finding.not_proved.push_back(no_sender(c));
  finding.summary += ", sent by " + sender_of(*signal);
  add_sender(*signal, finding);
}

/// Nobody looked at the process, but its threads were seen to stand.
void describe_threads(const Case& c, const ThreadStalls& threads, Finding& finding) {
  if (threads.of(stalls::State::stopped) >= threads.of(stalls::State::frozen)) {
    const bool sent = stopping_signal(c) != nullptr;
    finding.summary =
        sent ? "a signal stopped the QEMU process" : "a signal or a tracer stopped the QEMU process";
    finding.details["how"] = "signal";
    finding.remedy.push_back(fmt::format("let it run: kill -CONT {}", c.vm.pid));
    name_sender(c, finding);
  } else {
    finding.summary = "its cgroup's freezer keeps QEMU's threads from running";
    finding.details["how"] = "freezer";
    finding.remedy.emplace_back("thaw the process's cgroup");
    finding.not_proved.push_back({"who froze it", "writes to cgroup files are not watched"});
  }
}

/// How it stands still, and what to do about that.
void describe_freeze(const Case& c, const timeline::Process* stopped, const timeline::Cgroup* frozen,
                     Finding& finding) {
  if (frozen != nullptr) {
    finding.summary = fmt::format("the cgroup {} is frozen", frozen->path);
    finding.details["how"] = "freezer";
    finding.details["cgroup"] = frozen->path;
    finding.details["cgroup_version"] = frozen->state.version;
    finding.evidence.push_back(
        {frozen->time_ns, "cgroup",
         fmt::format("{} is frozen (cgroup v{})", frozen->path, frozen->state.version)});
    finding.remedy.push_back(
        frozen->state.version == 2
            ? fmt::format("thaw it: echo 0 > /sys/fs/cgroup{}/cgroup.freeze", frozen->path)
            : fmt::format("thaw it: echo THAWED > /sys/fs/cgroup/freezer{}/freezer.state", frozen->path));
    finding.not_proved.push_back({"who froze it", "signals and writes to cgroup files were not watched"});
  } else if (stopped != nullptr && stopped->state.tracer_pid != 0) {
    finding.summary = fmt::format("process {} ({}) traces QEMU, which is stopped", stopped->state.tracer_pid,
                                  stopped->tracer);
    finding.details["how"] = "ptrace";
    finding.details["tracer_pid"] = stopped->state.tracer_pid;
    finding.remedy.push_back(fmt::format("detach the tracer, or end it: kill {}", stopped->state.tracer_pid));
  } else if (stopped != nullptr) {
    finding.summary = "a signal stopped the QEMU process (SIGSTOP or its like)";
    finding.details["how"] = "signal";
    finding.remedy.push_back(
        fmt::format("let it run: kill -CONT {}", c.vm.pid != 0 ? c.vm.pid : stopped->state.pid));
    name_sender(c, finding);
  } else {
    finding.summary = "QEMU's threads sit in the freezer";
    finding.details["how"] = "freezer";
    finding.remedy.emplace_back("thaw the process's cgroup");
    finding.not_proved.push_back({"which cgroup is frozen", "the freezer's state was not readable"});
  }
}

}  // namespace

void add_monitor_evidence(const Case& c, Finding& finding) {
  for (const timeline::LinkChange* change : link_changes(c))
    finding.evidence.push_back(link_evidence(*change));
}

Opinion judge_host_frozen(const Case& c) {
  if (!c.is_stall()) return nothing();
  const timeline::Process* stopped = nullptr;
  for (const timeline::Process& process : c.vm.processes) {
    const char state = static_cast<char>(process.state.state);
    if (process.time_ns >= c.begin && process.time_ns <= c.until + timeline::kSecond &&
        (state == 'T' || state == 't') && stopped == nullptr)
      stopped = &process;
  }
  const timeline::Cgroup* frozen = nullptr;
  for (const timeline::Cgroup& cgroup : c.vm.cgroups)
    if (cgroup.time_ns + timeline::kSecond >= c.begin && cgroup.time_ns <= c.until + timeline::kSecond &&
        cgroup.state.freezer == static_cast<std::uint32_t>(trace::FreezerState::frozen) && frozen == nullptr)
      frozen = &cgroup;
  const timeline::Thread* cold = nullptr;
  for (const timeline::Thread* thread : threads_of(c))
    if (refrigerated(*thread)) cold = thread;
  const ThreadStalls threads = thread_stalls_of(c);
  if (stopped == nullptr && frozen == nullptr && cold == nullptr && threads.list.empty()) {
    const timeline::Process* process = c.process();
    if (process != nullptr && process->time_ns >= c.begin)
      return against("host-frozen",
                     fmt::format("the process is in {}, traced by nobody, and its cgroup is not frozen",
                                 static_cast<char>(std::clamp<unsigned>(process->state.state, 33, 126))));
    return nothing();
  }
  Finding finding;
  const bool proven = stopped != nullptr || frozen != nullptr || !threads.list.empty();
  finding.confidence = proven ? Confidence::proven : Confidence::likely;
  if (stopped == nullptr && frozen == nullptr && cold == nullptr)
    describe_threads(c, threads, finding);
  else
    describe_freeze(c, stopped, frozen, finding);
  for (std::size_t i = 0; i < threads.list.size() && i < 4; ++i)
    finding.evidence.push_back(stall_evidence(threads.list[i]));
  if (stopped != nullptr)
    finding.evidence.push_back(
        {stopped->time_ns, "proc",
         fmt::format("process {} is in {} ({}), TracerPid {}", stopped->state.pid,
                     static_cast<char>(stopped->state.state),
                     static_cast<char>(stopped->state.state) == 't' ? "tracing stop" : "stopped",
                     stopped->state.tracer_pid)});
  add_frozen_threads(c, finding);
  for (const timeline::LinkChange* change : link_changes(c))
    finding.evidence.push_back(link_evidence(*change));
  return found(std::move(finding));
}

Opinion judge_qemu_main_loop_blocked(const Case& c) {
  if (!c.is_stall() || (c.incident.all_reasons & kQmpReasons) == 0) return nothing();
  if ((c.incident.all_reasons & (timeline::kStopped | timeline::kFrozen)) != 0)
    return against("qemu-main-loop-blocked", "the whole process stands, not its main loop alone");
  bool greeted = false, overdue = false;
  Finding finding;
  for (const timeline::LinkChange* change : link_changes(c)) {
    greeted = greeted || change->state == trace::QmpLinkState::negotiation_timeout;
    if (change->state == trace::QmpLinkState::reply_overdue) {
      overdue = true;
      finding.details["command"] = change->detail;
      finding.details["waited_ns"] = change->waited_ns;
    }
    finding.evidence.push_back(link_evidence(*change));
  }
  if (!overdue && !greeted) {
    finding.confidence = Confidence::likely;
    finding.summary =
        "QEMU's monitor does not greet: the whole process stands, or another client holds the monitor";
  } else {
    finding.confidence = Confidence::likely;
    finding.summary = "QEMU's main loop does not answer its monitor";
  }
  const timeline::Thread* main = main_thread(c);
  if (main != nullptr) {
    finding.evidence.push_back(thread_evidence(*main));
    finding.details["thread"] = main->state.tid;
    finding.details["wchan"] = main->wchan;
    const char state = letter(*main);
    const bool idle_like = contains(main->wchan, "poll_schedule_timeout");
    if (state == 'D' || (!idle_like && !main->wchan.empty() && main->wchan != "0")) {
      finding.confidence = overdue || greeted ? Confidence::proven : Confidence::likely;
      finding.summary += fmt::format(": its main thread is in {}, in {}", state, main->wchan);
    } else if (idle_like) {
      finding.not_proved.push_back({"what the main loop does",
                                    "it sits in poll: waiting for requests to drain looks like "
                                    "being idle, and only its user stack tells them apart"});
    } else {
      finding.not_proved.push_back({"what the main loop does", "it runs; its user stack was not taken"});
    }
  } else {
    finding.not_proved.push_back({"where the main thread is", "its state was not read"});
  }
  finding.remedy.push_back(fmt::format(
      "see where it stands: gdb -p {} -batch -ex 'thread apply all bt' (this stops the VM meanwhile)",
      c.vm.pid != 0 ? std::to_string(c.vm.pid) : "PID"));
  return found(std::move(finding));
}

namespace {

/// A tap saw the client go, or stop reading.
void judge_lost_client(const Case& c, Finding& finding) {
  const bool gone = c.incident.trigger == "client gone";
  const timeline::Peer* peer = nullptr;
  for (const timeline::Peer& each : c.vm.peers)
    if (each.time_ns == c.begin) peer = &each;
  const std::string who = peer == nullptr ? "the client of QEMU's monitor" : peer->to_string();
  finding.confidence = Confidence::proven;
  finding.summary = who + (gone ? ", which held QEMU's monitor, closed it or ended; QEMU lives"
                                : ", which holds QEMU's monitor, does not read what QEMU has to tell");
  finding.details["how"] = gone ? "client gone" : "client does not read";
  finding.remedy.push_back(
      gone ? "see whether it runs again (for libvirt: systemctl status libvirtd virtqemud, and "
             "its log); until then nobody hears the VM's events"
           : "see what it waits for: it holds the VM's only monitor, and hears no event");
  if (peer == nullptr) return;
  finding.evidence.push_back(
      {peer->time_ns, "qmp", who + (gone ? " closed " : " does not read ") + peer->monitor});
  finding.details["client"] = boost::json::object{{"pid", peer->peer.pid},
                                                  {"comm", peer->comm},
                                                  {"command_line", peer->command_line},
                                                  {"user", peer->user},
                                                  {"monitor", peer->monitor}};
  finding.not_proved.push_back({"why", "only its own log tells"});
}

}  // namespace

Opinion judge_monitor_lost(const Case& c) {
  const bool topic = c.incident.topic == timeline::Topic::monitor_lost;
  if (!topic) return nothing();
  Finding finding;
  const timeline::Process* alive = nullptr;
  for (const timeline::Process& process : c.vm.processes)
    if (process.time_ns > c.begin && process.state.state != 0) alive = &process;
  const bool back = c.incident.ended_by == "connected again";
  if (c.incident.trigger == "holder gone") {
    finding.confidence = Confidence::likely;
    finding.summary = "the client that held QEMU's monitor is gone, and QEMU lives";
    finding.details["how"] = "holder gone";
    finding.not_proved.push_back({"who it was and why it left", "it needs the monitor tap"});
    finding.remedy.push_back(
        "see whether the management layer is up (systemctl status libvirtd, its log), and let it "
        "connect again");
  } else if (c.incident.trigger == "client gone" || c.incident.trigger == "client does not read") {
    judge_lost_client(c, finding);
  } else {
    finding.confidence = alive != nullptr || back ? Confidence::proven : Confidence::likely;
    finding.summary = "QEMU closed the monitor that vmwhy was connected to";
    finding.summary += alive != nullptr || back ? ", and lives" : "; whether QEMU still lives is not known";
    finding.details["how"] = "closed";
    finding.remedy.push_back(
        "see whether somebody removed the monitor (chardev-remove) or QEMU runs out of memory; events "
        "from then on were not seen");
    if (alive == nullptr && !back)
      finding.not_proved.push_back({"that QEMU lives", "its process could not be looked at"});
  }
  for (const timeline::LinkChange* change : link_changes(c)) {
    if (finding.evidence.size() >= 8) break;
    finding.evidence.push_back(link_evidence(*change));
  }
  if (alive != nullptr)
    finding.evidence.push_back(
        {alive->time_ns, "proc", fmt::format("process {} is alive", alive->state.pid)});
  return found(std::move(finding));
}

}  // namespace vmwhy::causes
