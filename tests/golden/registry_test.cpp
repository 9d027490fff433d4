// SPDX-License-Identifier: BSD-2-Clause
// What holds for the causes as a whole: each has cases and a section in the docs, each detail is described,
// and each JSON document has the documented shape.

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "causes/rule.hpp"
#include "tests/golden/golden_case.hpp"
#include "tests/support/temp_dir.hpp"

namespace vmwhy::test {
namespace {

namespace json = boost::json;

std::string doc(const char* name) {
  return read_file(std::filesystem::path(__FILE__).parent_path() / "../../docs" / name);
}

std::set<std::string> cause_names() {
  std::set<std::string> names{"unknown"};
  for (const causes::Rule& rule : causes::rules()) names.emplace(rule.cause);
  return names;
}

std::vector<Judged> all_judged() {
  std::vector<Judged> all;
  for (const CaseFile& file : case_files()) all.push_back(judge(parse_trace_script(read_file(file.path))));
  return all;
}

TEST(Registry, HasAPositiveAndANearMissCaseForEachCause) {
  std::map<std::string, std::pair<int, int>> cases;
  for (const CaseFile& file : case_files())
    ++(file.positive ? cases[file.cause].first : cases[file.cause].second);
  for (const std::string& cause : cause_names()) {
    EXPECT_GT(cases[cause].first, 0) << cause << " has no pos- case";
    EXPECT_GT(cases[cause].second, 0) << cause << " has no near- case";
  }
  for (const auto& [cause, count] : cases)
    EXPECT_EQ(cause_names().count(cause), 1U) << cause << " is no cause";
}

TEST(Registry, HasASectionInTheDocsForEachCause) {
  const std::string text = doc("causes.md");
  for (const std::string& cause : cause_names())
    EXPECT_NE(text.find("\n### " + cause + "\n"), std::string::npos) << cause;
}

TEST(Registry, NamesNoRivalThatIsNoCause) {
  const std::set<std::string> names = cause_names();
  for (const Judged& judged : all_judged())
    for (const causes::Incident& incident : judged.incidents) {
      EXPECT_EQ(names.count(incident.verdict.cause), 1U);
      for (const causes::RuledOut& out : incident.verdict.ruled_out) {
        EXPECT_EQ(names.count(out.cause), 1U) << out.cause;
        EXPECT_NE(out.cause, incident.verdict.cause);
      }
    }
}

TEST(VerdictDocument, DescribesEveryDetail) {
  const std::string text = doc("verdicts.md");
  for (const Judged& judged : all_judged())
    for (const causes::Incident& incident : judged.incidents)
      for (const auto& detail : incident.verdict.details)
        EXPECT_NE(text.find("| `" + std::string(detail.key()) + "` |"), std::string::npos)
            << detail.key() << " of " << incident.verdict.cause;
}

/// Member, and the kinds of value that it may have.
using Shape = std::map<std::string, std::set<json::kind>>;

void expect_shape(const json::object& object, const Shape& shape, const char* what) {
  for (const auto& [key, kinds] : shape) {
    const json::value* value = object.if_contains(key);
    ASSERT_NE(value, nullptr) << what << "." << key;
    EXPECT_EQ(kinds.count(value->kind()), 1U) << what << "." << key;
  }
  EXPECT_EQ(object.size(), shape.size()) << what << " has members that are not described";
}

const std::set<json::kind> kText{json::kind::string}, kList{json::kind::array}, kObject{json::kind::object},
    kNumber{json::kind::uint64, json::kind::int64}, kBool{json::kind::bool_};
const std::set<json::kind> kNumberOrNull{json::kind::uint64, json::kind::int64, json::kind::null},
    kTextOrNull{json::kind::string, json::kind::null};

TEST(VerdictDocument, HasTheDocumentedShape) {
  const Shape document{{"schema", kText},         {"trace", kText},      {"host", kObject},
                       {"lost_records", kNumber}, {"first_ns", kNumber}, {"last_ns", kNumber},
                       {"vms", kNumber},          {"notes", kList},      {"incidents", kList}};
  const Shape incident{{"id", kNumber},
                       {"vm", kObject},
                       {"kind", kText},
                       {"run_state", kText},
                       {"begin_ns", kNumber},
                       {"end_ns", kNumberOrNull},
                       {"ended_by", kText},
                       {"wall_time", kTextOrNull},
                       {"began_before_watch", kBool},
                       {"cause", kText},
                       {"confidence", kText},
                       {"summary", kText},
                       {"details", kObject},
                       {"evidence", kList},
                       {"other_causes", kList},
                       {"ruled_out", kList},
                       {"not_proved", kList},
                       {"missing", kList},
                       {"remedy", kList}};
  const std::map<std::string, Shape> elements{
      {"evidence", {{"time_ns", kNumber}, {"source", kText}, {"text", kText}}},
      {"other_causes", {{"cause", kText}, {"confidence", kText}}},
      {"ruled_out", {{"cause", kText}, {"against", kText}}},
      {"not_proved", {{"what", kText}, {"why", kText}}}};
  const std::string text = doc("verdicts.md");
  for (const Shape& shape : {document, incident})
    for (const auto& member : shape)
      EXPECT_NE(text.find("| `" + member.first + "` |"), std::string::npos) << member.first;

  for (const Judged& judged : all_judged()) {
    expect_shape(judged.json, document, "document");
    EXPECT_EQ(judged.json.at("schema").as_string(), "vmwhy.verdict/1");
    for (const json::value& entry : judged.json.at("incidents").as_array()) {
      expect_shape(entry.as_object(), incident, "incident");
      expect_shape(entry.at("vm").as_object(),
                   {{"id", kNumber}, {"name", kText}, {"uuid", kText}, {"pid", kNumber}, {"monitor", kText}},
                   "vm");
      for (const auto& [list, shape] : elements)
        for (const json::value& element : entry.at(list).as_array())
          expect_shape(element.as_object(), shape, list.c_str());
    }
  }
}

TEST(VerdictDocument, CountsItsEvidenceInOrderOfTime) {
  for (const Judged& judged : all_judged())
    for (const causes::Incident& incident : judged.incidents)
      EXPECT_TRUE(std::is_sorted(incident.verdict.evidence.begin(), incident.verdict.evidence.end(),
                                 [](const auto& a, const auto& b) { return a.time_ns < b.time_ns; }));
}

}  // namespace
}  // namespace vmwhy::test
