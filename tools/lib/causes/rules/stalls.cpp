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

char letter(const timeline::Thread& thread) {
  return static_cast<char>(thread.state.state);
}

bool waits_for_storage(const timeline::Thread& thread) {
  return in_storage(thread.wchan) || in_storage(thread.stack);
}

bool refrigerated(const timeline::Thread& thread) {
  return contains(thread.wchan, "refrigerator") || contains(thread.stack, "__refrigerator");
}

/// Threads as they were seen in the incident, each once, its first look.
std::vector<const timeline::Thread*> threads_of(const Case& c) {
  std::vector<const timeline::Thread*> threads;
  for (const timeline::Thread& thread : c.vm.threads) {
    if (thread.time_ns + timeline::kSecond < c.begin || thread.time_ns > c.until + timeline::kSecond)
      continue;
    const bool known = std::any_of(threads.begin(), threads.end(), [&](const timeline::Thread* other) {
      return other->state.tid == thread.state.tid;
    });
    if (!known) threads.push_back(&thread);
  }
  return threads;
}

const timeline::Thread* main_thread(const Case& c) {
  for (const timeline::Thread* thread : threads_of(c))
    if (thread->state.role == static_cast<std::uint32_t>(trace::ThreadRole::main) ||
        (c.vm.pid != 0 && thread->state.tid == c.vm.pid))
      return thread;
  return nullptr;
}

const timeline::NodeFile* unreachable_file(const Case& c) {
  for (const timeline::NodeFile& file : c.vm.files)
    if (file.time_ns + timeline::kSecond >= c.begin && file.time_ns <= c.until + timeline::kSecond &&
        (file.file.flags & trace::kNodeUnreachable))
      return &file;
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

namespace {
const timeline::IoRequest* oldest_under_way(const Case& c) {
  const timeline::IoRequest* oldest = nullptr;
  for (const timeline::IoRequest& request : c.vm.requests) {
    if (request.io.what != static_cast<std::uint32_t>(trace::IoWhat::under_way)) continue;
    if (request.time_ns < c.from || request.time_ns > c.until + timeline::kSecond) continue;
    if (oldest == nullptr ||
        request.time_ns - request.io.duration_ns <= oldest->time_ns - oldest->io.duration_ns)
      oldest = &request;
  }
  return oldest;
}

/// The files answer what is asked of them, and a request for data hangs.
void name_file_of_threads(const std::vector<const timeline::Thread*>& waiting, Finding& finding) {
  for (const timeline::Thread* thread : waiting) {
    if (thread->file.empty()) continue;
    finding.summary += ": " + thread->file;
    finding.details["path"] = thread->file;
    return;
  }
  finding.not_proved.push_back({"which file hangs", "every node's file that was tried answered"});
}

/// The latest look at what a request hangs on.
const timeline::NodeFile* latest_look(const Case& c, const Finding& finding) {
  const auto* path = finding.details.if_contains("path");
  const timeline::NodeFile* out = nullptr;
  if (path == nullptr) return out;
  for (const timeline::NodeFile& file : c.vm.files)
    if (file.path == std::string_view(path->as_string()) &&
        (out == nullptr || !file.devices.empty() || !file.fs_type.empty()))
      out = &file;
  return out;
}

std::uint64_t ten_seconds_before(const Case& c) {
  return c.begin - std::min(c.begin, 10 * timeline::kSecond);
}

void blame_connection(const timeline::NodeFile& file, const std::vector<const timeline::KernelLine*>& lines,
                      Finding& finding) {
  finding.summary += fmt::format("; the kernel's {} client lost its server", kernel_client(file));
  finding.details["transport"] = kernel_client(file);
  for (const timeline::KernelLine* line : lines) finding.evidence.push_back(kernel_evidence(*line));
  if (!only_remote(file)) {
    finding.confidence = Confidence::likely;
    finding.not_proved.push_back(
        {"that the request waits for that server", "a disk of this host is under the file too"});
  }
  finding.not_proved.push_back(
      {"why the connection is lost", "the server, and the way to it, were not seen"});
  finding.remedy.emplace_back(
      "look at the server and the way to it, and let the client connect again; the VM then goes on by "
      "itself");
}

/// A request that does not come back. @param lost  Judge those over a client of the kernel that lost its
/// server; else all others.
Opinion judge_hang(const Case& c, bool lost) {
  if (!c.is_stall()) return nothing();
  const timeline::NodeFile* file = unreachable_file(c);
  std::vector<const timeline::Thread*> waiting;
  for (const timeline::Thread* thread : threads_of(c))
    if (!refrigerated(*thread) && (letter(*thread) == 'D' || letter(*thread) == 'S') &&
        waits_for_storage(*thread))
      waiting.push_back(thread);
  const bool hung = (c.incident.all_reasons & timeline::kHungThread) != 0;
  if (file == nullptr && waiting.empty()) {
    if (!lost && !c.vm.files.empty() && c.vm.files.back().time_ns >= c.begin)
      return against("storage-hang", "each node's file answered at once, and no thread waits for storage");
    return nothing();
  }
  if (file == nullptr && !hung && (c.incident.all_reasons & kQmpReasons) == 0) return nothing();
  Finding finding;
  finding.confidence = file != nullptr && !waiting.empty() ? Confidence::proven : Confidence::likely;
  finding.summary = "a request to the storage was issued and does not come back";
  if (file != nullptr) {
    finding.summary += fmt::format(": {} does not answer", file->path);
    finding.details["node"] = file->node;
    finding.details["path"] = file->path;
    finding.evidence.push_back(file_evidence(*file));
  } else {
    name_file_of_threads(waiting, finding);
    // Its system call was seen to stand, on this file.
    if (hung && finding.details.contains("path")) finding.confidence = Confidence::proven;
  }
  for (const timeline::Thread* thread : waiting) {
    if (finding.evidence.size() >= 8) break;
    finding.evidence.push_back(thread_evidence(*thread));
  }
  if (!waiting.empty()) {
    finding.details["thread"] = waiting.front()->state.tid;
    finding.details["wchan"] = waiting.front()->wchan;
  }
  const timeline::IoRequest* oldest = oldest_under_way(c);
  if (oldest != nullptr) {
    finding.evidence.push_back(request_evidence(*oldest));
    finding.details["oldest_request_ns"] = oldest->io.duration_ns;
    if (file == nullptr && !finding.details.contains("path")) {
      finding.summary += ": " + oldest->path;
      finding.details["path"] = oldest->path;
      finding.not_proved.clear();
      if (!waiting.empty()) finding.confidence = Confidence::proven;
    }
  }
  const timeline::NodeFile* look = latest_look(c, finding);
  const auto lines = look == nullptr ? std::vector<const timeline::KernelLine*>{}
                                     : connection_lines(c, *look, ten_seconds_before(c), c.until);
  if (lost != !lines.empty())
    return lost ? nothing() : against("storage-hang", "the kernel's own client lost its server");
  if (lost) blame_connection(*look, lines, finding);
  add_monitor_evidence(c, finding);
  if (!lost)
    finding.remedy.push_back(
        "mend the storage (server, path, a frozen file system: fsfreeze -u); the VM goes on by itself");
  finding.remedy.push_back("send the VM neither stop nor query-block: each would block its main loop");
  if (oldest == nullptr)
    finding.not_proved.push_back({"how old the oldest request is", why_no_call_under_way(c)});
  return found(std::move(finding));
}

}  // namespace

Opinion judge_storage_hang(const Case& c) {
  return judge_hang(c, false);
}
Opinion judge_kernel_client_lost(const Case& c) {
  return judge_hang(c, true);
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
