// SPDX-License-Identifier: BSD-2-Clause
#include <boost/json/array.hpp>
#include <boost/json/value.hpp>

#include "core/text.hpp"
#include "render/render.hpp"

namespace vmwhy::render {

namespace json = boost::json;

namespace {

json::object vm_json(const causes::VmName& vm) {
  json::object object;
  object["id"] = vm.id;
  object["name"] = vm.name;
  object["uuid"] = vm.uuid;
  object["pid"] = vm.pid;
  object["monitor"] = vm.monitor;
  return object;
}

json::array strings(const std::vector<std::string>& list) {
  json::array array;
  for (const std::string& text : list) array.emplace_back(text);
  return array;
}

}  // namespace

json::object to_json(const causes::Incident& incident) {
  const causes::Verdict& verdict = incident.verdict;
  json::object object;
  object["id"] = incident.id;
  object["vm"] = vm_json(incident.vm);
  object["kind"] = json::value(std::string(causes::to_string(incident.kind)));
  object["run_state"] = incident.run_state;
  object["begin_ns"] = incident.begin_ns;
  object["end_ns"] = incident.end_ns ? json::value(*incident.end_ns) : json::value(nullptr);
  object["began_before_watch"] = incident.began_before_watch;
  object["ended_by"] = incident.ended_by;
  object["wall_time"] =
      incident.begin_realtime_ns ? json::value(iso_time(*incident.begin_realtime_ns)) : json::value(nullptr);
  object["cause"] = verdict.cause;
  object["confidence"] = json::value(std::string(causes::to_string(verdict.confidence)));
  object["summary"] = verdict.summary;
  object["details"] = verdict.details;
  json::array evidence;
  for (const causes::Evidence& e : verdict.evidence)
    evidence.push_back(json::object{{"time_ns", e.time_ns}, {"source", e.source}, {"text", e.text}});
  object["evidence"] = std::move(evidence);
  json::array others;
  for (const causes::OtherCause& other : verdict.other_causes)
    others.push_back(json::object{{"cause", other.cause},
                                  {"confidence", std::string(causes::to_string(other.confidence))}});
  object["other_causes"] = std::move(others);
  json::array ruled_out;
  for (const causes::RuledOut& out : verdict.ruled_out)
    ruled_out.push_back(json::object{{"cause", out.cause}, {"against", out.against}});
  object["ruled_out"] = std::move(ruled_out);
  json::array not_proved;
  for (const causes::NotProved& open : verdict.not_proved)
    not_proved.push_back(json::object{{"what", open.what}, {"why", open.why}});
  object["not_proved"] = std::move(not_proved);
  object["missing"] = strings(verdict.missing);
  object["remedy"] = strings(verdict.remedy);
  return object;
}

json::object to_json(const causes::TraceSummary& summary, const std::vector<causes::Incident>& incidents) {
  json::object object;
  object["schema"] = "vmwhy.verdict/1";
  object["trace"] = summary.trace;
  object["host"] = summary.host;
  object["lost_records"] = summary.lost_records;
  object["first_ns"] = summary.first_ns;
  object["last_ns"] = summary.last_ns;
  object["vms"] = summary.vms;
  object["notes"] = strings(summary.notes);
  json::array array;
  for (const causes::Incident& incident : incidents) array.push_back(to_json(incident));
  object["incidents"] = std::move(array);
  return object;
}

}  // namespace vmwhy::render
