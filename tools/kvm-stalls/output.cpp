// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-stalls/output.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <ostream>

#include "core/text.hpp"

namespace vmwhy::kvm_stalls {
namespace {

using stalls::State;

// A share that adds up to less or more than this says that the accounting is wrong.
constexpr double kTolerance = 0.001;
constexpr std::size_t kCulpritsShown = 3, kFramesShown = 8, kUserFramesShown = 12, kBar = 40;

struct Style {
  bool color;
  std::string bold(const std::string& text) const { return color ? "\x1b[1m" + text + "\x1b[0m" : text; }
};

struct Column {
  const char* head;
  char letter;  ///< In a bar.
};
constexpr std::array<Column, stalls::kStates> kColumns{{{"?", '?'},
                                                        {"RUN", 'r'},
                                                        {"GUEST", 'g'},
                                                        {"KVM", 'k'},
                                                        {"QEMU", 'q'},
                                                        {"HALT", 'h'},
                                                        {"POLL", 'p'},
                                                        {"READY", 'W'},
                                                        {"QUOTA", 'T'},
                                                        {"IDLE", '.'},
                                                        {"LOCK", 'L'},
                                                        {"BLOCK", 'B'},
                                                        {"DISK", 'D'},
                                                        {"MEM", 'M'},
                                                        {"STOP", 'S'},
                                                        {"FROZEN", 'F'}}};

double percent(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

std::string human(std::uint64_t ns) {
  return human_duration(static_cast<std::int64_t>(std::min<std::uint64_t>(ns, INT64_MAX)));
}

std::string thread_text(const Thread& thread) {
  std::string name =
      stalls::name_of_thread(static_cast<std::uint32_t>(thread.role), thread.vcpu, thread.tid, thread.comm);
  if (name.starts_with("the ")) name.erase(0, 4);
  if (name.size() > 34) name.resize(34);
  return name;
}

std::string vm_text(const Report& report, std::uint32_t pid) {
  const auto name = report.names.find(pid);
  return name != report.names.end() && !name->second.empty()
             ? fmt::format("{} [{}]", printable(name->second, 60), pid)
             : fmt::format("process {}", pid);
}

std::vector<std::size_t> columns_of(const Report& report) {
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < stalls::kStates; ++i)
    if (std::any_of(report.threads.begin(), report.threads.end(),
                    [&](const Share& share) { return share.times[i] != 0; }))
      out.push_back(i);
  return out;
}

void print_culprits(std::ostream& out, const Share& share) {
  const std::uint64_t waited = share.times[static_cast<std::size_t>(State::waiting)];
  // Below one percent nobody asks.
  if (waited * 100 < share.window_ns || share.culprits.empty()) return;
  // Threads of one process are one culprit here; --json has them apart.
  std::vector<stalls::Culprit> processes;
  for (const stalls::Culprit& culprit : share.culprits) {
    const auto same = std::find_if(processes.begin(), processes.end(), [&](const stalls::Culprit& seen) {
      return seen.pid == culprit.pid && seen.comm == culprit.comm;
    });
    if (same == processes.end())
      processes.push_back(culprit);
    else
      same->ns += culprit.ns;
  }
  std::sort(processes.begin(), processes.end(), [](const auto& a, const auto& b) { return a.ns > b.ns; });
  out << "      ready while";
  for (std::size_t i = 0; i < processes.size() && i < kCulpritsShown; ++i)
    out << fmt::format("{} {} {:.1f} %", i ? "," : "", stalls::describe(processes[i]),
                       percent(processes[i].ns, share.window_ns));
  out << "\n";
}

/// "WWWWWWWWWWkk": as long as its share.
std::string bar_of(const stalls::Times& times) {
  const std::uint64_t whole = stalls::sum(times);
  if (whole == 0) return {};
  std::string bar;
  std::uint64_t so_far = 0;
  for (std::size_t i = 0; i < stalls::kStates; ++i) {
    so_far += times[i];
    const auto until = static_cast<std::size_t>(
        std::lround(static_cast<double>(so_far) / static_cast<double>(whole) * kBar));
    if (until > bar.size()) bar.append(until - bar.size(), kColumns[i].letter);
  }
  return bar;
}

std::string shares_text(const stalls::Times& times) {
  const std::uint64_t whole = stalls::sum(times);
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < stalls::kStates; ++i)
    if (percent(times[i], whole) >= 0.05) order.push_back(i);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return times[a] > times[b]; });
  std::string out;
  for (const std::size_t i : order)
    out += fmt::format("{}{} {:.1f} %", out.empty() ? "" : ", ", stalls::name_of(static_cast<State>(i)),
                       percent(times[i], whole));
  return out;
}

boost::json::object shares_json(const stalls::Times& times) {
  boost::json::object out;
  const auto whole = static_cast<double>(stalls::sum(times));
  for (std::size_t i = 0; i < stalls::kStates; ++i)
    if (times[i]) out[stalls::name_of(static_cast<State>(i))] = static_cast<double>(times[i]) / whole;
  return out;
}

boost::json::array culprits_json(const std::vector<stalls::Culprit>& culprits) {
  boost::json::array out;
  for (const stalls::Culprit& culprit : culprits)
    out.push_back(boost::json::object{{"pid", culprit.pid},
                                      {"tid", culprit.tid},
                                      {"comm", culprit.tid == 0 ? "idle" : culprit.comm},
                                      {"ns", culprit.ns}});
  return out;
}

boost::json::object losses_json(const bpf::StallsLosses& losses) {
  return {{"ring_full", losses.ring_full},
          {"waiters_full", losses.waiters_full},
          {"read_failed", losses.read_failed},
          {"switch_missed", losses.switch_missed}};
}

const char* role_name(std::uint32_t role) {
  switch (static_cast<trace::ThreadRole>(role)) {
    case trace::ThreadRole::main:
      return "main";
    case trace::ThreadRole::vcpu:
      return "vcpu";
    case trace::ThreadRole::iothread:
      return "iothread";
    default:
      return "other";
  }
}

boost::json::array strings_json(const std::vector<std::string>& strings) {
  boost::json::array out;
  for (const std::string& text : strings) out.emplace_back(text);
  return out;
}

boost::json::array frames_json(const std::vector<stalls::UserFrame>& frames) {
  boost::json::array out;
  for (const stalls::UserFrame& frame : frames)
    out.push_back(boost::json::object{{"name", frame.name},
                                      {"build_id", frame.build_id},
                                      {"address", fmt::format("{:#x}", frame.address)}});
  return out;
}

boost::json::value vcpu_json(std::int32_t vcpu) {
  return vcpu >= 0 ? boost::json::value(vcpu) : boost::json::value(nullptr);
}

boost::json::object stall_json(const stalls::Stall& stall) {
  boost::json::object out{{"pid", stall.record.pid},
                          {"tid", stall.record.tid},
                          {"comm", stall.comm},
                          {"role", role_name(stall.record.role)},
                          {"vcpu", vcpu_json(stall.record.vcpu)},
                          {"begin_ns", stall.begin_ns()},
                          {"length_ns", stall.record.length_ns},
                          {"ongoing", stall.ongoing()},
                          {"shares", shares_json(stall.times)},
                          {"culprits", culprits_json(stall.culprits)},
                          {"stack", strings_json(stall.kernel_stack)},
                          {"summary", stalls::sentence(stall)}};
  if (!stall.user_stack.empty()) out["user_stack"] = frames_json(stall.user_stack);
  if (stall.record.lock_owner != 0)
    out["lock_owner"] = boost::json::object{{"tid", stall.record.lock_owner}, {"name", stall.lock_owner}};
  if (!stall.call.empty()) out["syscall"] = stall.call;
  if (!stall.wchan.empty()) out["wchan"] = stall.wchan;
  if (!stall.descriptor.empty()) out["file"] = stall.descriptor;
  return out;
}

}  // namespace

std::vector<std::string> errors_of(const Report& report) {
  std::vector<std::string> out;
  for (const Share& share : report.threads)
    if (share.error() > kTolerance)
      out.push_back(fmt::format("the shares of {} add up to {:.2f} % instead of 100 %",
                                thread_text(share.thread),
                                percent(stalls::sum(share.times), share.window_ns)));
  return out;
}

void print_table(std::ostream& out, const Report& report, bool color) {
  const Style style{color};
  const std::vector<std::size_t> columns = columns_of(report);
  std::uint32_t pid = 0;
  for (const Share& share : report.threads) {
    if (share.thread.pid != pid) {
      pid = share.thread.pid;
      out << style.bold(vm_text(report, pid)) << fmt::format(", {}\n", human(report.window_ns));
      std::string head = fmt::format("  {:<34}", "THREAD, % OF ITS TIME");
      for (const std::size_t i : columns) head += fmt::format(" {:>6}", kColumns[i].head);
      out << style.bold(head) << "\n";
    }
    out << fmt::format("  {:<34}", thread_text(share.thread));
    for (const std::size_t i : columns) {
      if (share.times[i] == 0)
        out << "      -";
      else
        out << fmt::format(" {:>6.2f}", percent(share.times[i], share.window_ns));
    }
    out << "\n";
    print_culprits(out, share);
  }
  if (report.threads.empty()) out << "no threads to watch\n";
  for (const std::string& error : errors_of(report)) out << "  wrong: " << error << "\n";
}

std::string line_of(const stalls::Stall& stall, const std::string& vm, std::uint64_t began_ns) {
  const auto since = static_cast<std::int64_t>(stall.end_ns - std::min(stall.end_ns, began_ns));
  return fmt::format("{} {}: {}", relative_time(since), vm, stalls::sentence(stall));
}

void print_end(std::ostream& out, const Report& report, std::uint64_t began_ns, bool color) {
  const Style style{color};
  if (report.stalls.empty()) {
    out << "no stalls\n";
  } else {
    out << style.bold(fmt::format("worst of {} stalls", report.all_stalls)) << "\n";
  }
  std::size_t number = 0;
  for (const stalls::Stall& stall : report.stalls) {
    out << fmt::format("{:>3}. {}\n", ++number, line_of(stall, vm_text(report, stall.record.pid), began_ns));
    out << fmt::format("     [{}] {}\n", bar_of(stall.times), shares_text(stall.times));
    for (std::size_t i = 0; i < stall.kernel_stack.size() && i < kFramesShown; ++i)
      out << "       " << stall.kernel_stack[i] << "\n";
    if (!stall.user_stack.empty())
      out << "     in QEMU: " << stalls::join_functions(stall.user_stack, kUserFramesShown) << "\n";
  }
  for (const Signal& signal : report.signals)
    out << fmt::format(
        "{} {}\n",
        relative_time(static_cast<std::int64_t>(signal.time_ns - std::min(signal.time_ns, began_ns))),
        describe(signal));
  for (const clock::Sleep& sleep : report.sleeps)
    out << fmt::format(
        "{} the host slept for {}: that is no stall, and in the table it is FROZEN\n",
        relative_time(static_cast<std::int64_t>(sleep.after_ns - std::min(sleep.after_ns, began_ns))),
        human(sleep.length_ns));
  if (const std::string lost = losses_text(report.losses); !lost.empty()) out << "lost: " << lost << "\n";
  for (const std::string& note : report.notes) out << "note: " << note << "\n";
}

std::string losses_text(const bpf::StallsLosses& losses) {
  std::string out;
  const auto add = [&](std::uint64_t count, const char* what) {
    if (count) out += fmt::format("{}{} {}", out.empty() ? "" : ", ", count, what);
  };
  add(losses.ring_full, "stalls or signals (ring full)");
  add(losses.waiters_full, "waits whose culprits are not known");
  add(losses.read_failed, "exit reasons that could not be read");
  add(losses.switch_missed, "switches that the kernel did not tell of (nobody is blamed for them)");
  return out;
}

boost::json::object to_json(const Report& report) {
  boost::json::array threads, stalls_array, signals, probes, sleeps;
  for (const Share& share : report.threads)
    threads.push_back(boost::json::object{{"pid", share.thread.pid},
                                          {"tid", share.thread.tid},
                                          {"comm", share.thread.comm},
                                          {"role", role_name(static_cast<std::uint32_t>(share.thread.role))},
                                          {"vcpu", vcpu_json(share.thread.vcpu)},
                                          {"window_ns", share.window_ns},
                                          {"shares", shares_json(share.times)},
                                          {"culprits", culprits_json(share.culprits)},
                                          {"others_ns", share.others_ns},
                                          {"stalls", share.stalls}});
  for (const stalls::Stall& stall : report.stalls) stalls_array.push_back(stall_json(stall));
  for (const Signal& signal : report.signals)
    signals.push_back(boost::json::object{{"time_ns", signal.time_ns},
                                          {"signal", signal.record.signal},
                                          {"pid", signal.record.pid},
                                          {"sender_pid", signal.record.sender_pid},
                                          {"sender_comm", signal.sender},
                                          {"sender_uid", signal.record.sender_uid},
                                          {"oom_victim", signal.record.what == 2},
                                          {"summary", describe(signal)}});
  for (const clock::Sleep& sleep : report.sleeps)
    sleeps.push_back(boost::json::object{{"time_ns", sleep.after_ns}, {"length_ns", sleep.length_ns}});
  for (const bpf::StallsProbe& probe : report.probes)
    probes.push_back(boost::json::object{
        {"name", probe.name}, {"attached", probe.attached}, {"hits", probe.hits}, {"error", probe.error}});
  return {{"schema", "vmwhy.stalls/1"},         {"window_ns", report.window_ns},
          {"lost", losses_json(report.losses)}, {"threads", std::move(threads)},
          {"stalls", std::move(stalls_array)},  {"all_stalls", report.all_stalls},
          {"signals", std::move(signals)},      {"host_sleeps", std::move(sleeps)},
          {"probes", std::move(probes)},        {"errors", strings_json(errors_of(report))},
          {"notes", strings_json(report.notes)}};
}

bool print_check(std::ostream& out, const bpf::Environment& environment) {
  const auto mark = [](bpf::Finding finding) {
    return finding == bpf::Finding::ok ? "ok" : finding == bpf::Finding::partial ? "partial" : "missing";
  };
  for (const bpf::Check& check : environment.checks) {
    // How kvm_exit's reason is read by its classic form does not matter here.
    if (check.name == "tracefs") continue;
    out << fmt::format("{:<13} {:<8} {}\n", check.name, mark(check.finding), check.detail);
    if (!check.remedy.empty()) out << fmt::format("{:<22} {}\n", "", check.remedy);
  }
  if (environment.obstacle(false)) return false;
  auto probes = bpf::Stalls::load(environment, {.max_threads = 1});
  if (!probes) {
    out << fmt::format("{:<13} {:<8} {}\n", "probes", "missing", to_string(probes.error()));
    return false;
  }
  const auto attached = (*probes)->attach();
  for (const bpf::StallsProbe& probe : (*probes)->probes())
    out << fmt::format("{:<30} {:<8} {}\n", probe.name, probe.attached ? "ok" : "missing", probe.error);
  if (!attached) out << fmt::format("{:<13} {:<8} {}\n", "probes", "missing", to_string(attached.error()));
  return attached.has_value();
}

}  // namespace vmwhy::kvm_stalls
