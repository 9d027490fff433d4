// SPDX-License-Identifier: BSD-2-Clause
// Each tests/golden/cases/<cause>-{pos,near}-<what>.trace is judged, and text and JSON are compared with the
// files beside it. VMWHY_UPDATE_GOLDEN=1 rewrites them: read the difference before you commit it.

#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "causes/analysis.hpp"
#include "causes/rule.hpp"
#include "render/render.hpp"
#include "tests/golden/golden_case.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/trace_script.hpp"
#include "trace/reader.hpp"

namespace vmwhy::test {
namespace {

void expect_file(const std::filesystem::path& path, const std::string& actual) {
  if (std::getenv("VMWHY_UPDATE_GOLDEN") != nullptr) {
    std::ofstream(path, std::ios::binary) << actual;
    return;
  }
  EXPECT_EQ(read_file(path), actual) << path << " (VMWHY_UPDATE_GOLDEN=1 rewrites it)";
}

class GoldenCase : public ::testing::TestWithParam<CaseFile> {};

TEST_P(GoldenCase, IsJudgedAsWritten) {
  const CaseFile& file = GetParam();
  const ScriptedTrace trace = parse_trace_script(read_file(file.path));
  ASSERT_EQ(trace.error, "");
  const Judged judged = judge(trace);
  std::filesystem::path expected = file.path;
  expect_file(expected.replace_extension(".txt"), judged.text);
  expect_file(expected.replace_extension(".json"), pretty(judged.json));
}

TEST_P(GoldenCase, NamesTheCauseOrNot) {
  const CaseFile& file = GetParam();
  const ScriptedTrace trace = parse_trace_script(read_file(file.path));
  std::vector<std::string> causes;
  for (const causes::Incident& incident : judge(trace).incidents) causes.push_back(incident.verdict.cause);
  const bool named = std::find(causes.begin(), causes.end(), file.cause) != causes.end();
  EXPECT_EQ(named, file.positive) << ::testing::PrintToString(causes);
}

TEST_P(GoldenCase, IsJudgedAlikeRecordByRecordAndFromAFile) {
  const ScriptedTrace trace = parse_trace_script(read_file(GetParam().path));
  const std::string at_once = boost::json::serialize(judge(trace).json);

  causes::Analysis live;
  live.add_meta(trace.meta);
  for (const trace::OwnedRecord& record : trace.records) {
    live.add(record.view());
    live.take_changes();
    live.judge_all();
  }
  live.finish();
  EXPECT_EQ(boost::json::serialize(render::to_json(live.summary(), live.judge_all())), at_once);

  TempDir folder;
  auto reader = trace::Reader::from_bytes(write_trace(trace, folder / "case.vmt"));
  ASSERT_TRUE(reader) << to_string(reader.error());
  causes::Analysis filed;
  (*reader)->for_each([&](const trace::RecordView& record) { filed.add(record); });
  filed.add_meta((*reader)->meta());
  filed.finish();
  EXPECT_EQ(boost::json::serialize(render::to_json(filed.summary(), filed.judge_all())), at_once);
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenCase, ::testing::ValuesIn(case_files()),
                         [](const auto& info) { return info.param.test_name; });

}  // namespace
}  // namespace vmwhy::test
