// SPDX-License-Identifier: BSD-2-Clause
#include "tests/golden/golden_case.hpp"

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <sstream>

#include "causes/analysis.hpp"
#include "render/render.hpp"

namespace vmwhy::test {
namespace {

std::string camel(const std::string& name) {
  std::string out;
  bool upper = true;
  for (char c : name) {
    if (c == '-') {
      upper = true;
      continue;
    }
    out += upper ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : c;
    upper = false;
  }
  return out;
}

void write_pretty(std::ostream& out, const boost::json::value& value, int indent) {
  const std::string pad(static_cast<std::size_t>(indent) + 2, ' ');
  if (const boost::json::object* object = value.if_object(); object != nullptr && !object->empty()) {
    out << "{\n";
    std::size_t n = 0;
    for (const auto& member : *object) {
      out << pad << boost::json::serialize(boost::json::value(member.key())) << ": ";
      write_pretty(out, member.value(), indent + 2);
      out << (++n < object->size() ? ",\n" : "\n");
    }
    out << std::string(static_cast<std::size_t>(indent), ' ') << '}';
  } else if (const boost::json::array* array = value.if_array(); array != nullptr && !array->empty()) {
    out << "[\n";
    for (std::size_t n = 0; n < array->size(); ++n) {
      out << pad;
      write_pretty(out, (*array)[n], indent + 2);
      out << (n + 1 < array->size() ? ",\n" : "\n");
    }
    out << std::string(static_cast<std::size_t>(indent), ' ') << ']';
  } else {
    out << boost::json::serialize(value);
  }
}

}  // namespace

std::vector<CaseFile> case_files() {
  std::vector<CaseFile> files;
  const auto folder = std::filesystem::path(__FILE__).parent_path() / "cases";
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".trace") continue;
    CaseFile file;
    file.path = entry.path();
    const std::string stem = entry.path().stem();
    std::size_t at = stem.find("-pos-");
    file.positive = at != std::string::npos;
    if (!file.positive) at = stem.find("-near-");
    if (at == std::string::npos) continue;
    file.cause = stem.substr(0, at);
    file.test_name = camel(stem);
    files.push_back(std::move(file));
  }
  std::sort(files.begin(), files.end(), [](const CaseFile& a, const CaseFile& b) { return a.path < b.path; });
  return files;
}

Judged judge(const ScriptedTrace& trace) {
  causes::Analysis analysis;
  analysis.add_meta(trace.meta);
  for (const trace::OwnedRecord& record : trace.records) analysis.add(record.view());
  analysis.finish();
  Judged judged;
  judged.incidents = analysis.judge_all();
  std::ostringstream text;
  for (const causes::Incident& incident : judged.incidents) {
    if (&incident != &judged.incidents.front()) text << '\n';
    render::report(text, incident, {});
  }
  render::notes(text, analysis.summary(), {});
  judged.text = text.str();
  judged.json = render::to_json(analysis.summary(), judged.incidents);
  return judged;
}

std::string pretty(const boost::json::value& value) {
  std::ostringstream out;
  write_pretty(out, value, 0);
  out << '\n';
  return out.str();
}

}  // namespace vmwhy::test
