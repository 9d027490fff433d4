// SPDX-License-Identifier: BSD-2-Clause
// QEMU, KVM and the host: internal errors, exits, signals, the OOM killer, broken memory.
#include <fmt/format.h>
#include <string.h>

#include <algorithm>
#include <charconv>
#include <csignal>

#include "causes/actors.hpp"
#include "causes/rules/rules.hpp"
#include "causes/rules/threads.hpp"
#include "core/text.hpp"
#include "timeline/json_read.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {

using timeline::text_of;

namespace {

std::string_view suberror_name(int number) {
  switch (number) {
    case 1:
      return "emulation failure";
    case 2:
      return "simultaneous exceptions";
    case 3:
      return "exception during delivery of an event";
    case 4:
      return "unexpected exit reason";
    default:
      return "unknown";
  }
}

int number_after(std::string_view text, std::string_view label) {
  const std::size_t at = text.rfind(label);
  if (at == std::string_view::npos) return -1;
  std::string_view rest = trim(text.substr(at + label.size()));
  int value = -1;
  std::from_chars(rest.data(), rest.data() + rest.size(), value);
  return value;
}

std::string signal_text(int number) {
  const char* name = number > 0 && number < NSIG ? sigabbrev_np(number) : nullptr;
  return name != nullptr ? fmt::format("SIG{}", name) : fmt::format("signal {}", number);
}

const timeline::QmpEvent* shutdown_of(const Case& c) {
  return c.vm.last_event("SHUTDOWN", c.from, c.begin + timeline::kSecond);
}

std::string shutdown_reason(const Case& c) {
  const timeline::QmpEvent* event = shutdown_of(c);
  return event != nullptr ? text_of(event->data, "reason", 32) : std::string();
}

/// The kernel's line that it killed this process for want of memory.
const timeline::KernelLine* oom_line(const Case& c) {
  if (c.vm.pid == 0) return nullptr;
  const std::string killed = fmt::format("Killed process {} ", c.vm.pid);
  for (const timeline::KernelLine* line : c.kernel_lines(60 * timeline::kSecond, 2 * timeline::kSecond))
    if (contains(line->text, killed)) return line;
  return nullptr;
}

/// The process goes on, as no QEMU: how kvm-stalls tells of an execve.
bool became_another(const timeline::End& end) {
  return end.how == trace::EndHow::unknown && end.learned.starts_with("became another program by execve");
}

Evidence end_evidence(const timeline::End& end) {
  if (became_another(end)) return {end.time_ns, "proc", "QEMU's process " + printable(end.learned, 256)};
  std::string text = "QEMU ended";
  if (end.how == trace::EndHow::exited) text += fmt::format(": exit status {}", end.status);
  if (end.how == trace::EndHow::signaled)
    text += fmt::format(": {}{}", signal_text(end.status), end.core_dumped ? ", core dumped" : "");
  if (end.how == trace::EndHow::unknown) text += "; how was not seen";
  return {end.time_ns, "proc", text};
}

void add_log_lines(const Case& c, Finding& finding, std::size_t count) {
  const timeline::Log* log = c.log();
  if (log == nullptr) return;
  for (const std::string& line : last_lines(log->text, count))
    finding.evidence.push_back(log_evidence(*log, line));
}

}  // namespace

Opinion judge_kvm_internal_error(const Case& c) {
  if (!c.is_pause()) return nothing();
  const std::string_view log = c.log_text();
  const bool in_log = contains(log, "KVM internal error") || contains(log, "kvm run failed") ||
                      contains(log, "KVM: entry failed");
  if (c.run_state != "internal-error") {
    if (in_log && !c.run_state.empty())
      return against("kvm-internal-error",
                     fmt::format("stderr tells of one, but the run state is '{}': QEMU goes on after "
                                 "an emulation failure in the guest's user mode",
                                 c.run_state));
    return nothing();
  }
  Finding finding;
  finding.confidence = in_log ? Confidence::proven : Confidence::likely;
  finding.summary = "KVM gave up on the guest's CPU (internal error)";
  if (contains(log, "KVM internal error")) {
    const int suberror = number_after(log, "Suberror:");
    finding.summary = fmt::format("KVM gave up on the guest's CPU: internal error, suberror {} ({})",
                                  suberror, suberror_name(suberror));
    finding.details["suberror"] = suberror;
    finding.details["suberror_name"] = std::string(suberror_name(suberror));
  } else if (contains(log, "KVM: entry failed")) {
    finding.summary = "KVM could not enter the guest (entry failed)";
  } else if (in_log) {
    finding.summary = "KVM could not run the guest (kvm run failed)";
  }
  if (const timeline::Log* tail = c.log(); tail != nullptr && in_log) {
    for (const char* needle : {"KVM internal error", "kvm run failed", "KVM: entry failed", "extra data[0]",
                               "extra data[1]", "emulation failure", "RIP=", "EIP=", "Code="}) {
      const std::vector<std::string> lines = lines_with(tail->text, needle, 1);
      if (lines.empty()) continue;
      finding.evidence.push_back(log_evidence(*tail, lines.front()));
      if (needle == std::string_view("RIP=") || needle == std::string_view("EIP="))
        finding.details["rip"] = lines.front().substr(0, 128);
      if (needle == std::string_view("Code=")) finding.details["code"] = lines.front().substr(0, 256);
    }
  }
  if (!in_log)
    finding.not_proved.push_back(
        {"which internal error", "QEMU writes it to its stderr, and that was not readable"});
  finding.not_proved.push_back({"the exits before it", "KVM was not watched"});
  finding.remedy.push_back("keep QEMU's stderr now: a restart overwrites it");
  finding.remedy.push_back("cont is refused until the VM is reset: " + qmp_call(c, "system_reset"));
  return found(std::move(finding));
}

namespace {

/// The kernel log was not there, but the OOM killer was seen at work.
Opinion oom_by_probe(const Case& c, const timeline::ProcessSignal& victim) {
  Finding finding;
  finding.confidence = Confidence::proven;
  finding.summary = fmt::format("the kernel's OOM killer killed QEMU, while {} [{}] asked for memory",
                                printable(victim.sender, 64), victim.signal.sender_pid);
  finding.evidence.push_back(signal_evidence(victim));
  finding.evidence.push_back(end_evidence(*c.vm.ended));
  if (!c.vm.cgroups.empty() && c.vm.cgroups.back().state.memory_max_bytes != UINT64_MAX) {
    const timeline::Cgroup& cgroup = c.vm.cgroups.back();
    const std::string& path = cgroup.memory_path.empty() ? cgroup.path : cgroup.memory_path;
    finding.details["limit_bytes"] = cgroup.state.memory_max_bytes;
    finding.details["cgroup"] = path;
    finding.evidence.push_back(
        {cgroup.time_ns, "cgroup",
         fmt::format("{} used {}; its limit, or that of a group above it, is {}", printable(path, 200),
                     human_bytes(cgroup.state.memory_current_bytes),
                     human_bytes(cgroup.state.memory_max_bytes))});
  }
  finding.not_proved.push_back({"whether a cgroup's limit or the host's memory was used up",
                                "the kernel log, which says so, was not recorded"});
  finding.remedy.emplace_back("see the kernel log (dmesg) for the limit that was hit, and leave the VM room");
  return found(std::move(finding));
}

}  // namespace

Opinion judge_host_oom_kill(const Case& c) {
  if (!c.is_exit() || !c.vm.ended) return nothing();
  const timeline::KernelLine* line = oom_line(c);
  const timeline::End& end = *c.vm.ended;
  const bool by_kill = end.how == trace::EndHow::signaled && end.status == SIGKILL;
  const timeline::ProcessSignal* victim = oom_victim(c);
  if (line == nullptr) {
    if (!by_kill) return nothing();
    if (victim != nullptr) return oom_by_probe(c, *victim);
    const auto& sensors = c.timeline.host().sensors;
    const auto kmsg = sensors.find("kmsg");
    if (kmsg != sensors.end() && kmsg->second.state == trace::SensorState::on)
      return against("host-oom-kill",
                     fmt::format("the kernel log does not say that it killed process {}", c.vm.pid));
    return nothing();
  }
  if (end.how == trace::EndHow::exited || (end.how == trace::EndHow::signaled && end.status != SIGKILL))
    return against("host-oom-kill", "it did not end by SIGKILL");
  Finding finding;
  finding.confidence = Confidence::proven;
  const bool cgroup = contains(line->text, "Memory cgroup out of memory");
  finding.summary = cgroup ? "the kernel killed QEMU: its cgroup ran into its memory limit"
                           : "the kernel killed QEMU: the host ran out of memory";
  finding.details["scope"] = cgroup ? "cgroup" : "host";
  finding.evidence.push_back(kernel_evidence(*line));
  finding.evidence.push_back(end_evidence(end));
  const std::string pid = fmt::format("pid={}", c.vm.pid);
  for (const timeline::KernelLine* other : c.kernel_lines(60 * timeline::kSecond, 2 * timeline::kSecond)) {
    if (!contains(other->text, "oom-kill:") || !contains_word(other->text, pid)) continue;
    finding.evidence.push_back(kernel_evidence(*other));
    const std::size_t at = other->text.find("oom_memcg=");
    if (at != std::string::npos) {
      const std::string_view rest = std::string_view(other->text).substr(at + 10);
      finding.details["cgroup"] = std::string(rest.substr(0, rest.find(',')));
    }
  }
  if (const timeline::Process* last = c.vm.processes.last_in(0, c.begin);
      last != nullptr && last->state.rss_bytes != 0)
    finding.details["last_rss_bytes"] = last->state.rss_bytes;
  if (!c.vm.cgroups.empty() && c.vm.cgroups.back().state.memory_max_bytes != UINT64_MAX)
    finding.details["limit_bytes"] = c.vm.cgroups.back().state.memory_max_bytes;
  finding.remedy.push_back(
      cgroup ? "raise the cgroup's memory limit above the VM's memory plus QEMU's own"
             : "find what took the host's memory (the kernel log lists it), and leave the VM room");
  return found(std::move(finding));
}

namespace {

/// It exited by itself, nothing tells why, and a signal that asks it to had just come.
const timeline::ProcessSignal* obeyed_signal(const Case& c) {
  const bool told = !shutdown_reason(c).empty() || !c.log_text().empty();
  return c.vm.ended->how == trace::EndHow::exited && !told ? asked_to_end(c) : nullptr;
}

/// Who sent it: by QEMU's stderr, or by the probe of signals.
void name_killer(const Case& c, int number, const std::vector<std::string>& lines, Finding& finding) {
  const timeline::ProcessSignal* signal = number > 0 ? ending_signal(c, number) : nullptr;
  if (!lines.empty()) {
    finding.summary += ": " + lines.back();
    finding.evidence.push_back(log_evidence(*c.log(), lines.back()));
    const int sender = number_after(lines.back(), "from pid");
    if (sender > 0) finding.details["sender_pid"] = sender;
  } else if (signal != nullptr) {
    finding.summary += ", sent by " + sender_of(*signal);
  }
  if (signal != nullptr)
    add_sender(*signal, finding);
  else if (lines.empty())
    finding.not_proved.push_back(no_sender(c));
}

}  // namespace

Opinion judge_qemu_killed(const Case& c) {
  if (!c.is_exit() || !c.vm.ended) return nothing();
  const timeline::End& end = *c.vm.ended;
  const std::vector<std::string> lines = lines_with(c.log_text(), "terminating on signal", 4);
  const bool told = shutdown_reason(c) == "host-signal";
  const timeline::ProcessSignal* obeyed = obeyed_signal(c);
  if (end.how != trace::EndHow::signaled && !told && obeyed == nullptr && lines.empty()) {
    if (end.how != trace::EndHow::exited) return nothing();
    return against("qemu-killed", fmt::format("it ended by itself, with status {}", end.status));
  }
  Finding finding;
  finding.confidence = end.how == trace::EndHow::signaled || told ? Confidence::proven : Confidence::likely;
  const int number = end.how == trace::EndHow::signaled ? end.status
                     : obeyed != nullptr                ? obeyed->signal.signal
                                                        : number_after(c.log_text(), "terminating on signal");
  finding.summary = number > 0 ? fmt::format("{} ended QEMU", signal_text(number)) : "a signal ended QEMU";
  if (number > 0) finding.details["signal"] = number;
  if (number > 0) finding.details["signal_name"] = signal_text(number);
  if (told) finding.evidence.push_back(qmp_evidence(*shutdown_of(c)));
  name_killer(c, number, lines, finding);
  if (obeyed != nullptr)
    finding.not_proved.push_back(
        {"that it ended because of the signal",
         "it exited by itself, and its own word for it (stderr, SHUTDOWN) was not recorded"});
  finding.evidence.push_back(end_evidence(end));
  if (number == SIGBUS)
    finding.not_proved.push_back({"what the bus error was",
                                  "a memory file that was cut or ran out of room, or broken "
                                  "memory: see the kernel log"});
  if (number == SIGSYS) {
    const std::string pid = fmt::format("pid={}", c.vm.pid);
    for (const timeline::KernelLine* line : c.kernel_lines(5 * timeline::kSecond, 2 * timeline::kSecond)) {
      if (!contains(line->text, "type=1326") || !contains_word(line->text, pid)) continue;
      finding.evidence.push_back(kernel_evidence(*line));
      const int call = number_after(line->text, "syscall=");
      if (call >= 0) finding.details["syscall"] = call;
    }
    finding.remedy.emplace_back("QEMU's sandbox (seccomp) refused a system call: see -sandbox");
  }
  if (end.core_dumped)
    finding.remedy.emplace_back("a core was dumped: coredumpctl gdb, or the path of kernel.core_pattern");
  if (number == SIGKILL && !finding.details.contains("sender_comm"))
    finding.remedy.emplace_back("see who kills: the management layer's log, a kernel log of the OOM killer");
  if (finding.remedy.empty())
    finding.remedy.emplace_back("ask whoever sent the signal; shutting a host down sends SIGTERM too");
  return found(std::move(finding));
}

Opinion judge_qemu_exited(const Case& c) {
  if (!c.is_exit() || !c.vm.ended) return nothing();
  const timeline::End& end = *c.vm.ended;
  if (end.how == trace::EndHow::signaled)
    return against("qemu-exited", fmt::format("{} ended it", signal_text(end.status)));
  if (oom_line(c) != nullptr && end.how == trace::EndHow::unknown) return nothing();
  if (became_another(end)) {
    Finding finding;
    finding.confidence = Confidence::proven;
    finding.summary =
        "QEMU did not end: its process " + printable(end.learned.substr(0, end.learned.find(": ")), 128);
    finding.evidence.push_back(end_evidence(end));
    finding.remedy.emplace_back(
        "see who starts this VM: a process of QEMU's does not execute other programs by itself");
    return found(std::move(finding));
  }
  const std::string reason = shutdown_reason(c);
  if (end.how == trace::EndHow::unknown && reason.empty() && c.log_text().empty()) return nothing();
  if (reason.rfind("guest-", 0) == 0 || reason == "host-signal" || obeyed_signal(c) != nullptr)
    return nothing();  // Told better by other rules.
  Finding finding;
  finding.confidence = end.how == trace::EndHow::exited ? Confidence::proven : Confidence::likely;
  finding.summary = end.how == trace::EndHow::exited
                        ? fmt::format("QEMU ended by itself, with status {}", end.status)
                        : "QEMU ended by itself";
  if (end.how == trace::EndHow::exited)
    finding.details["status"] = end.status;
  else
    finding.not_proved.push_back(
        {"its exit status", end.learned.empty() ? "it could not be read" : end.learned});
  if (!reason.empty()) {
    finding.details["reason"] = reason;
    finding.evidence.push_back(qmp_evidence(*shutdown_of(c)));
    if (reason == "host-qmp-quit") {
      finding.summary = "a client of QEMU's monitor sent quit";
      if (const Act act = last_act(c.vm, {"quit"}, c.from, c.begin))
        name_actor(act, finding);
      else
        finding.not_proved.push_back({"who sent quit", no_actor(c)});
    }
  }
  finding.evidence.push_back(end_evidence(end));
  add_log_lines(c, finding, 6);
  const std::vector<std::string> last = last_lines(c.log_text(), 1);
  if (!last.empty() && reason.empty()) finding.summary += "; its last words: " + last.front();
  if (end.status != 0 && last.empty())
    finding.not_proved.push_back({"why it ended", "its stderr was not readable"});
  finding.remedy.push_back(reason == "host-qmp-quit"
                               ? "ask whoever manages the VM"
                               : "read QEMU's stderr (the VM's log) before a restart overwrites it");
  return found(std::move(finding));
}

namespace {

/// What a line of the kernel log says of broken memory, for this VM.
enum class Broken { nothing, somewhere, of_another, of_the_vm };

bool is_thread_of(const Case& c, std::uint32_t tid) {
  if (tid == c.vm.pid || c.vm.vcpu_threads.contains(tid)) return true;
  return std::any_of(c.vm.threads.begin(), c.vm.threads.end(),
                     [&](const timeline::Thread& thread) { return thread.state.tid == tid; });
}

Broken tells_of_memory(const Case& c, std::string_view line) {
  // "Memory failure: 0x12345: Sending SIGBUS to CPU 0/KVM:4250 due to hardware memory corruption", "MCE:
  // Killing qemu-system-x86:4242 due to hardware memory corruption fault at 7f…"
  const std::size_t due = line.find(" due to hardware memory corruption");
  if (due != std::string_view::npos) {
    const std::string_view whom = line.substr(0, due);
    const std::size_t colon = whom.rfind(':');
    std::uint32_t tid = 0;
    if (colon != std::string_view::npos)
      std::from_chars(whom.data() + colon + 1, whom.data() + whom.size(), tid);
    return tid != 0 && is_thread_of(c, tid) ? Broken::of_the_vm : Broken::of_another;
  }
  // What the hardware mended by itself broke nothing, and much that it reports is no memory.
  const bool corrected = contains(line, "orrected") && !contains(line, "ncorrected");
  if (corrected) return Broken::nothing;
  const bool told = contains(line, "Memory failure: 0x") ||
                    contains(line, "Uncorrected hardware memory error") ||
                    (contains(line, "[Hardware Error]") && contains(line, "emory"));
  return told ? Broken::somewhere : Broken::nothing;
}

}  // namespace

Opinion judge_host_memory_failure(const Case& c) {
  const bool topic = c.incident.topic == timeline::Topic::memory_failure;
  const bool bus =
      c.is_exit() && c.vm.ended && c.vm.ended->how == trace::EndHow::signaled && c.vm.ended->status == SIGBUS;
  if (!topic && !bus) return nothing();
  std::vector<const timeline::KernelLine*> lines;
  bool of_the_vm = false;
  for (const timeline::KernelLine* line : c.kernel_lines(10 * timeline::kSecond, 5 * timeline::kSecond)) {
    const Broken broken = tells_of_memory(c, line->text);
    if (broken == Broken::nothing || broken == Broken::of_another) continue;
    of_the_vm = of_the_vm || broken == Broken::of_the_vm;
    lines.push_back(line);
  }
  const timeline::QmpEvent* event = topic ? c.vm.first_event("MEMORY_FAILURE", c.begin, c.begin)
                                          : c.vm.last_event("MEMORY_FAILURE", c.from, c.begin);
  if (!topic && event == nullptr && lines.empty()) return nothing();
  Finding finding;
  // QEMU's word and the kernel's are one chain; the kernel's alone is one where it names the VM.
  finding.confidence =
      of_the_vm || (event != nullptr && !lines.empty()) ? Confidence::proven : Confidence::likely;
  finding.summary = "memory under the VM is broken (machine check)";
  if (event != nullptr) {
    finding.evidence.push_back(qmp_evidence(*event));
    const std::string recipient = text_of(event->data, "recipient", 16);
    const std::string action = text_of(event->data, "action", 16);
    finding.details["recipient"] = recipient;
    finding.details["action"] = action;
    finding.summary += fmt::format(": QEMU's action on the {}: {}", recipient, action);
  }
  for (const timeline::KernelLine* line : lines)
    if (finding.evidence.size() < 12) finding.evidence.push_back(kernel_evidence(*line));
  if (bus) finding.evidence.push_back(end_evidence(*c.vm.ended));
  if (lines.empty())
    finding.not_proved.push_back({"that the host's memory is broken",
                                  "the kernel log has no line of it; a machine check "
                                  "injected by the monitor (mce) looks the same"});
  else if (event == nullptr && !of_the_vm)
    finding.not_proved.push_back(
        {"that the broken memory was the VM's", "the kernel log does not name the process"});
  finding.remedy.push_back("move the VMs off this host and check its memory (kernel log, edac, rasdaemon)");
  return found(std::move(finding));
}

}  // namespace vmwhy::causes
