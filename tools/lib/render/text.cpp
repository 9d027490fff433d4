// SPDX-License-Identifier: BSD-2-Clause
#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "core/text.hpp"
#include "render/render.hpp"
#include "render/wrap.hpp"

namespace vmwhy::render {
namespace {

using causes::Confidence;
using causes::Incident;
using causes::Kind;

constexpr std::string_view kBold = "\x1b[1m";
constexpr std::string_view kRed = "\x1b[31m";
constexpr std::string_view kGreen = "\x1b[32m";
constexpr std::string_view kYellow = "\x1b[33m";
constexpr std::string_view kDim = "\x1b[2m";
constexpr std::string_view kReset = "\x1b[0m";

/// Puts colour around a text where colour is wanted.
class Paint {
 public:
  Paint(const TextStyle& style, std::string_view code) : on_(style.color), code_(code) {}
  std::string operator()(std::string_view text) const {
    return on_ ? fmt::format("{}{}{}", code_, text, kReset) : std::string(text);
  }

 private:
  bool on_;
  std::string_view code_;
};

std::string vm_text(const causes::VmName& vm) {
  // A VM without a name is best known by where it is heard; its number means something in this trace only.
  std::string text = "VM ";
  if (!vm.name.empty())
    text += fmt::format("'{}'", printable(vm.name, 200));
  else
    text += vm.monitor.empty() ? fmt::format("#{}", vm.id) : "at " + printable(vm.monitor, 200);
  if (vm.pid != 0) text += fmt::format(" (pid {})", vm.pid);
  return text;
}

std::string what_text(const Incident& incident) {
  switch (incident.kind) {
    case Kind::pause:
      return incident.run_state.empty() ? "paused" : "paused (" + printable(incident.run_state, 64) + ")";
    case Kind::stall:
      return "stalled";
    case Kind::exit:
      return "ended";
    case Kind::event:
      break;
  }
  return "goes on, but something befell it";
}

std::string since_text(const Incident& incident) {
  const std::string when =
      incident.begin_realtime_ns
          ? iso_time(*incident.begin_realtime_ns)
          : fmt::format("{:.6f} s after boot", static_cast<double>(incident.begin_ns) / 1e9);
  if (incident.kind == Kind::exit || (incident.end_ns && *incident.end_ns == incident.begin_ns))
    return "at " + when;
  std::string text = (incident.began_before_watch ? "since before " : "since ") + when;
  if (!incident.end_ns) return text;
  text += fmt::format(", for {}",
                      human_duration(static_cast<std::int64_t>(*incident.end_ns - incident.begin_ns)));
  if (!incident.ended_by.empty()) text += " (ended by: " + printable(incident.ended_by, 200) + ")";
  return text;
}

std::string_view confidence_color(Confidence confidence) {
  if (confidence == Confidence::proven) return kRed;
  return kYellow;
}

class Report {
 public:
  Report(std::ostream& out, const TextStyle& style) : out_(out), style_(style), dim_(style, kDim) {}

  void section(std::string_view title) { out_ << Paint(style_, kBold)(fmt::format("  {}", title)) << '\n'; }

  /// One item under a section: `lead` once, then `text` wrapped beside it.
  void item(std::string_view lead, std::string_view text) {
    const std::vector<std::string> lines = wrap(printable(text), width() - 4 - lead.size());
    for (std::size_t i = 0; i < lines.size(); ++i) {
      out_ << "    " << (i == 0 ? dim_(lead) : std::string(lead.size(), ' ')) << lines[i] << '\n';
    }
  }

  void paragraph(std::string_view text) {
    for (const std::string& line : wrap(printable(text), width() - 2)) out_ << "  " << line << '\n';
  }

 private:
  std::size_t width() const { return static_cast<std::size_t>(std::max(style_.width, 40)); }

  std::ostream& out_;
  const TextStyle& style_;
  Paint dim_;
};

std::int64_t relative(std::uint64_t time_ns, std::uint64_t to_ns) {
  return static_cast<std::int64_t>(time_ns - to_ns);
}

void evidence(Report& report, const Incident& incident) {
  if (incident.verdict.evidence.empty()) return;
  report.section("Evidence");
  for (const causes::Evidence& e : incident.verdict.evidence)
    report.item(fmt::format("{:>9}  {:<6} ", relative_time(relative(e.time_ns, incident.begin_ns)),
                            printable(e.source, 16)),
                e.text);
}

void other_causes(Report& report, const causes::Verdict& verdict) {
  if (verdict.other_causes.empty()) return;
  report.section("Also possible");
  for (const causes::OtherCause& other : verdict.other_causes)
    report.item("", fmt::format("{} ({})", other.cause, to_string(other.confidence)));
}

}  // namespace

void report(std::ostream& out, const Incident& incident, const TextStyle& style) {
  const causes::Verdict& verdict = incident.verdict;
  Report report(out, style);
  out << Paint(style, kBold)(vm_text(incident.vm) + " " + what_text(incident)) << ", " << since_text(incident)
      << '\n';
  out << "  " << Paint(style, confidence_color(verdict.confidence))(printable(verdict.cause, 64)) << " ("
      << to_string(verdict.confidence) << ")\n";
  report.paragraph(verdict.summary);
  evidence(report, incident);
  other_causes(report, verdict);
  if (!verdict.ruled_out.empty()) report.section("Ruled out");
  for (const causes::RuledOut& out_of : verdict.ruled_out) report.item(out_of.cause + ": ", out_of.against);
  if (!verdict.not_proved.empty()) report.section("Not proved");
  for (const causes::NotProved& open : verdict.not_proved) report.item("", open.what + ": " + open.why);
  if (!verdict.missing.empty()) report.section("Missing");
  for (const std::string& missing : verdict.missing) report.item("", missing);
  if (!verdict.remedy.empty()) report.section("What to do");
  for (std::size_t i = 0; i < verdict.remedy.size(); ++i)
    report.item(fmt::format("{}. ", i + 1), verdict.remedy[i]);
}

void ended(std::ostream& out, const Incident& incident, const TextStyle& style) {
  out << vm_text(incident.vm) << ' ';
  const std::uint64_t end_ns = incident.end_ns.value_or(incident.begin_ns);
  const std::string took = human_duration(relative(end_ns, incident.begin_ns));
  const bool died = incident.ended_by == "QEMU ended";
  if (died) {
    out << "did not go on: QEMU ended";
  } else if (incident.kind == Kind::event) {
    out << "had its last of it";
  } else {
    out << Paint(style, kGreen)("goes on");
  }
  out << fmt::format(" after {} ({}", took, printable(incident.verdict.cause, 64));
  if (!died && !incident.ended_by.empty()) out << "; " << printable(incident.ended_by, 200);
  if (const auto* resumed = incident.verdict.details.if_contains("resumed_by");
      resumed != nullptr && resumed->is_object())
    if (const auto* sender = resumed->get_object().if_contains("sender");
        sender != nullptr && sender->is_string())
      out << ", as " << printable(std::string(sender->get_string()), 200) << " asked";
  out << ")\n";
}

void notes(std::ostream& out, const causes::TraceSummary& summary, const TextStyle& style) {
  for (const std::string& note : summary.notes) {
    const std::vector<std::string> lines =
        wrap(printable(note), static_cast<std::size_t>(std::max(style.width, 40)) - 6);
    for (std::size_t i = 0; i < lines.size(); ++i)
      out << (i == 0 ? Paint(style, kYellow)("note: ") : "      ") << lines[i] << '\n';
  }
}

}  // namespace vmwhy::render
