// SPDX-License-Identifier: BSD-2-Clause
#include "tools/vm-why/vm_why.hpp"

#include <gmock/gmock.h>

#include <boost/json/parse.hpp>
#include <fstream>
#include <sstream>

#include "cli/cli.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/trace_script.hpp"

namespace vmwhy::test {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::string_view kPause = R"(0.5 event STOP
0.501 status paused
0.6 collected began=0.5005
4 event RESUME
)";

struct Ran {
  int code;
  std::string out, err;
};

Ran run_why(vm_why::Options options) {
  std::ostringstream out, err;
  const int code = vm_why::run(options, out, err);
  return {code, out.str(), err.str()};
}

class VmWhy : public ::testing::Test {
 protected:
  std::string record(std::string_view script, std::string_view name = "a.vmt") {
    const std::string path = folder_ / name;
    bytes_ = write_trace(parse_trace_script(script), path);
    return path;
  }
  TempDir folder_;
  std::string bytes_;
};

TEST_F(VmWhy, SaysWhyAndExitsWithFourOnlyWhenAsked) {
  vm_why::Options options{{record(kPause)}};
  Ran ran = run_why(options);
  EXPECT_EQ(ran.code, cli::kOk);
  EXPECT_THAT(ran.out, HasSubstr("operator-stop (likely)"));
  options.exit_code = true;
  EXPECT_EQ(run_why(options).code, cli::kFound);
}

TEST_F(VmWhy, SaysThatNothingHappened) {
  vm_why::Options options{{record("1 status running\n")}};
  options.exit_code = true;
  const Ran ran = run_why(options);
  EXPECT_EQ(ran.code, cli::kOk);
  EXPECT_THAT(ran.out, HasSubstr("no pause, stall or end of a VM is in this trace\n"));
}

TEST_F(VmWhy, PrintsOneDocumentPerFile) {
  vm_why::Options options{{record(kPause, "a.vmt"), record(kPause, "b.vmt")}};
  options.json = true;
  std::istringstream lines(run_why(options).out);
  std::size_t documents = 0;
  for (std::string line; std::getline(lines, line); ++documents)
    EXPECT_EQ(boost::json::parse(line).at("schema").as_string(), "vmwhy.verdict/1");
  EXPECT_EQ(documents, 2U);
}

TEST_F(VmWhy, ShowsOnlyTheVmAndIncidentAskedFor) {
  const std::string path =
      record(std::string(kPause) +
             "5 seen {\"name\":\"db\"} pid=7 vm=2\n5 link ready vm=2\n6 event STOP vm=2\n"
             "6.001 status paused vm=2\n");
  vm_why::Options options{{path}};
  options.vm = "db";
  EXPECT_THAT(run_why(options).out, HasSubstr("'db'"));
  EXPECT_THAT(run_why(options).out, ::testing::Not(HasSubstr("'web1'")));
  options.vm = "web1";
  options.incident = 99;
  const Ran none = run_why(options);
  EXPECT_EQ(none.code, cli::kFailed);
  EXPECT_THAT(none.err, HasSubstr("no such incident"));
}

TEST_F(VmWhy, RefusesAnIncidentThatCannotBe) {
  const std::string path = record(kPause);
  for (const char* number : {"0", "-1", "x"}) {
    const test::Output ran = run_program({binary("vm-why"), "--incident", number, path});
    EXPECT_EQ(ran.status.code, cli::kUsage) << ran.err;
    EXPECT_THAT(ran.err, ::testing::StartsWith("vm-why: --incident: "));
    EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1) << ran.err;
  }
  EXPECT_EQ(run_program({binary("vm-why"), "--incident", "1", path}).status.code, cli::kOk);
}

TEST_F(VmWhy, NamesTheVmByItsMonitorWhereItHasNoName) {
  const std::string path = record("bare\n0 link ready address=/run/q\n0.5 event STOP\n0.501 status paused\n");
  EXPECT_THAT(run_why({{path}}).out, HasSubstr("VM at /run/q"));
}

TEST_F(VmWhy, NamesAFileThatIsNoTraceInOneLine) {
  for (const auto& [name, content] : {std::pair<const char*, std::string>{"empty", ""},
                                      {"text", "hello, this is no trace at all, but long enough"}}) {
    const Ran ran = run_why({{folder_.write(name, content)}});
    EXPECT_EQ(ran.code, cli::kFailed);
    EXPECT_THAT(ran.out, IsEmpty());
    EXPECT_THAT(ran.err, HasSubstr(name));
    EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1);
  }
  EXPECT_THAT(run_why({{folder_ / "missing"}}).err, HasSubstr("missing"));
}

TEST_F(VmWhy, JudgesWhatATruncatedTraceStillHolds) {
  record(kPause);
  // Cut where the end block stands, then everywhere: never a crash, and a note when something was read.
  const Ran cut = run_why({{folder_.write("cut", bytes_.substr(0, bytes_.size() - 10))}});
  EXPECT_EQ(cut.code, cli::kOk);
  EXPECT_THAT(cut.out, HasSubstr("note: "));
  EXPECT_THAT(cut.out, HasSubstr("operator-stop"));
  record("1 status running\n2 status running\n");
  const Ran quiet = run_why({{folder_.write("quiet", bytes_.substr(0, bytes_.size() - 10))}});
  EXPECT_THAT(quiet.out, HasSubstr("no pause, stall or end of a VM is in what could be read"));
  record(kPause);
  for (std::size_t size = 0; size < bytes_.size(); size += 7) {
    const Ran ran = run_why({{folder_.write("any", bytes_.substr(0, size))}});
    EXPECT_TRUE(ran.code == cli::kOk || ran.code == cli::kFailed);
  }
}

}  // namespace
}  // namespace vmwhy::test
