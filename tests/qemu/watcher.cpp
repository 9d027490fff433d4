// SPDX-License-Identifier: BSD-2-Clause
#include "watcher.hpp"

#include <signal.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

namespace vmwhy::test {

namespace json = boost::json;

namespace {

std::vector<std::string> command_line(const std::string& trace, std::initializer_list<QemuProcess*> vms,
                                      const std::vector<std::string>& options) {
  std::vector<std::string> args{binary("qmp-pausewatch"), "--json", "-o", trace};
  for (const auto* vm : vms) args.insert(args.end(), {"-s", vm->monitor()});
  args.insert(args.end(), options.begin(), options.end());
  return args;
}

const json::array& array_of(const IncidentJson& incident, std::string_view key) {
  static const json::array kEmpty;
  const auto* value = incident.if_contains(key);
  return value != nullptr && value->is_array() ? value->get_array() : kEmpty;
}

json::object object_of(std::string_view document) {
  boost::system::error_code error;
  auto value = json::parse(document, error);
  return error || !value.is_object() ? json::object() : std::move(value.get_object());
}

std::string vm_name(const IncidentJson& incident) {
  const auto* vm = incident.if_contains("vm");
  return vm != nullptr && vm->is_object() ? text_of(vm->get_object(), "name") : "";
}

bool began_before(const IncidentJson& incident) {
  const auto* value = incident.if_contains("began_before_watch");
  return value != nullptr && value->is_bool() && value->get_bool();
}

bool same_incident(const IncidentJson& a, const IncidentJson& b) {
  return a.at("begin_ns") == b.at("begin_ns") && a.at("kind") == b.at("kind") && vm_name(a) == vm_name(b);
}

}  // namespace

Watcher::Watcher(const TempDir& dir, std::initializer_list<QemuProcess*> vms,
                 const std::vector<std::string>& options)
    : trace_(dir / "trace.vmt"), child_(command_line(trace_, vms, options)) {
  for (std::size_t i = 0; i < vms.size(); ++i)
    if (!child_.wait_error_line("watching")) ADD_FAILURE() << "it does not watch: " << said();
}

Watcher::Watcher(const TempDir& dir, const std::vector<std::string>& targets, const std::string& said)
    : trace_(dir / "trace.vmt"), child_(command_line(trace_, {}, targets)) {
  if (!child_.wait_error_line(said)) ADD_FAILURE() << "it does not watch: " << this->said();
}

std::string Watcher::said() {
  child_.wait(deadline_in(50ms));  // takes what is in the pipes
  return "stdout:\n" + child_.out() + "\nstderr:\n" + child_.err();
}

void Watcher::take(std::string_view line) {
  const auto document = object_of(line);
  for (const auto& incident : array_of(document, "incidents")) reports_.push_back(incident.as_object());
}

IncidentJson Watcher::incident(const std::function<bool(const IncidentJson&)>& wanted) {
  for (std::size_t at = 0;;) {
    for (; at < reports_.size(); ++at)
      if (wanted(reports_[at])) return reports_[at];
    const auto line = child_.wait_line([](std::string_view) { return true; });
    if (!line) break;
    take(*line);
  }
  ADD_FAILURE() << "no such report came\n" << said();
  return {};
}

IncidentJson Watcher::incident(std::string_view kind, std::string_view vm) {
  return incident([&](const IncidentJson& report) {
    return text_of(report, "kind") == kind && !began_before(report) && (vm.empty() || vm_name(report) == vm);
  });
}

IncidentJson Watcher::ended(std::string_view kind) {
  return incident([&](const IncidentJson& report) {
    return text_of(report, "kind") == kind && !began_before(report) && report.contains("end_ns") &&
           !report.at("end_ns").is_null();
  });
}

std::vector<IncidentJson> Watcher::finish() {
  child_.signal(SIGINT);
  const auto status = child_.wait();
  EXPECT_TRUE(status && status->code == 0) << said();
  while (const auto line = child_.wait_line([](std::string_view) { return true; }, deadline_in(0ms)))
    take(*line);
  auto offline = vm_why({trace_});
  for (const auto& later : offline) {
    const IncidentJson* live = nullptr;
    for (const auto& report : reports_)
      if (same_incident(report, later)) live = &report;
    if (live == nullptr) {
      ADD_FAILURE() << "vm-why tells of an incident that was not reported: " << json::serialize(later);
      continue;
    }
    for (const auto* key : {"cause", "confidence", "run_state", "summary"})
      EXPECT_EQ(text_of(*live, key), text_of(later, key)) << key << " differs between watch and vm-why";
  }
  for (const auto& report : reports_) {
    bool found = false;
    for (const auto& later : offline) found |= same_incident(report, later);
    EXPECT_TRUE(found) << "vm-why does not tell of " << json::serialize(report);
  }
  return offline;
}

std::vector<IncidentJson> vm_why(const std::vector<std::string>& files) {
  std::vector<std::string> args{binary("vm-why"), "--json"};
  args.insert(args.end(), files.begin(), files.end());
  const Output output = run_program(args);
  EXPECT_EQ(output.status.code, 0) << output.err;
  const auto document = object_of(output.out);
  EXPECT_EQ(text_of(document, "schema"), "vmwhy.verdict/1") << output.out;
  std::vector<IncidentJson> incidents;
  for (const auto& incident : array_of(document, "incidents")) incidents.push_back(incident.as_object());
  return incidents;
}

std::string vm_why_text(const std::string& file) {
  const Output output = run_program({binary("vm-why"), "--color=never", file});
  EXPECT_EQ(output.status.code, 0) << output.err;
  return output.out;
}

testing::AssertionResult none_of_kind(const std::vector<IncidentJson>& incidents, std::string_view kind) {
  for (const auto& incident : incidents)
    if (text_of(incident, "kind") == kind && !began_before(incident))
      return testing::AssertionFailure() << json::serialize(incident);
  return testing::AssertionSuccess();
}

std::string text_of(const IncidentJson& incident, std::string_view key) {
  const auto* value = incident.if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : "";
}

const boost::json::value& detail_of(const IncidentJson& incident, std::string_view key) {
  static const boost::json::value kNone;
  const auto* details = incident.if_contains("details");
  const auto* value =
      details != nullptr && details->is_object() ? details->get_object().if_contains(key) : nullptr;
  return value != nullptr ? *value : kNone;
}

testing::AssertionResult is_verdict(const IncidentJson& incident, std::string_view cause,
                                    std::string_view confidence) {
  if (text_of(incident, "cause") == cause && text_of(incident, "confidence") == confidence)
    return testing::AssertionSuccess();
  return testing::AssertionFailure() << "expected " << cause << ", " << confidence << "; it says "
                                     << json::serialize(incident);
}

testing::AssertionResult has_evidence(const IncidentJson& incident, std::string_view source,
                                      std::string_view text) {
  for (const auto& piece : array_of(incident, "evidence"))
    if (text_of(piece.as_object(), "source") == source &&
        text_of(piece.as_object(), "text").find(text) != std::string::npos)
      return testing::AssertionSuccess();
  return testing::AssertionFailure() << "no evidence of " << source << " with '" << text << "' in "
                                     << json::serialize(incident);
}

testing::AssertionResult rules_out(const IncidentJson& incident, std::string_view cause) {
  for (const auto& other : array_of(incident, "ruled_out"))
    if (text_of(other.as_object(), "cause") == cause) return testing::AssertionSuccess();
  return testing::AssertionFailure() << cause << " is not ruled out in " << json::serialize(incident);
}

testing::AssertionResult has_remedy(const IncidentJson& incident, std::string_view text) {
  for (const auto& line : array_of(incident, "remedy"))
    if (line.is_string() && line.get_string().find(text) != std::string::npos)
      return testing::AssertionSuccess();
  return testing::AssertionFailure() << "no remedy with '" << text << "' in " << json::serialize(incident);
}

}  // namespace vmwhy::test
