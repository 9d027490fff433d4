// SPDX-License-Identifier: BSD-2-Clause
#include "cli/cli.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

namespace vmwhy::cli {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::nanoseconds;
using std::chrono::seconds;

struct Parsed {
  std::optional<int> code;
  std::string out, err;
};

Parsed parse(Parser& parser, std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "tool");
  std::ostringstream out, err;
  Parsed parsed;
  parsed.code = parser.parse(static_cast<int>(arguments.size()), arguments.data(), out, err);
  parsed.out = out.str();
  parsed.err = err.str();
  return parsed;
}

TEST(CliDuration, TakesTheUnitsOfTheManPages) {
  EXPECT_EQ(parse_duration("500ms"), milliseconds(500));
  EXPECT_EQ(parse_duration("2s"), seconds(2));
  EXPECT_EQ(parse_duration("5m"), minutes(5));
  EXPECT_EQ(parse_duration("1h"), hours(1));
  EXPECT_EQ(parse_duration("0.25s"), milliseconds(250));
  EXPECT_EQ(parse_duration("7"), seconds(7));
  EXPECT_EQ(parse_duration("250us"), nanoseconds(250'000));
}

TEST(CliDuration, RefusesWhatIsNoDuration) {
  for (const char* text : {"", "s", "-1s", "5x", "5 s", "1e400", "nan", "inf", "99999999d", "2s3"}) {
    EXPECT_EQ(parse_duration(text), std::nullopt) << text;
  }
}

TEST(CliParser, BindsOptionsAndKeepsDefaults) {
  bool verbose = false;
  std::string output = "none";
  std::vector<std::string> sockets;
  nanoseconds duration = seconds(1);
  std::uint64_t pid = 0;
  Parser parser("tool", "does things");
  parser.flag("-v,--verbose", verbose, "say more")
      .text("-o,--output", output, "FILE", "where to")
      .texts("-s,--qmp", sockets, "SOCKET", "a socket")
      .duration("-d,--duration", duration, "how long")
      .number("-p,--pid", pid, "PID", "which");
  const Parsed parsed = parse(parser, {"-v", "-s", "/a", "-s", "/b", "-d", "2m", "-p", "42"});
  EXPECT_EQ(parsed.code, std::nullopt) << parsed.err;
  EXPECT_TRUE(verbose);
  EXPECT_EQ(output, "none");
  EXPECT_EQ(sockets, (std::vector<std::string>{"/a", "/b"}));
  EXPECT_EQ(duration, minutes(2));
  EXPECT_EQ(pid, 42U);
}

TEST(CliParser, LeavesTheCommandAfterDashesAlone) {
  std::vector<std::string> command;
  bool verbose = false;
  Parser parser("tool", "does things");
  parser.flag("-v", verbose, "say more").command_after_dashes(command, "run this");
  EXPECT_EQ(parse(parser, {"--", "sh", "-v", "--", "x"}).code, std::nullopt);
  EXPECT_FALSE(verbose);
  EXPECT_EQ(command, (std::vector<std::string>{"sh", "-v", "--", "x"}));
}

TEST(CliParser, SaysWhatIsWrongInOneLineAndExitsWithTwo) {
  nanoseconds duration{};
  Parser parser("tool", "does things");
  parser.duration("-d,--duration", duration, "how long");
  const Parsed unknown = parse(parser, {"--nonsense"});
  EXPECT_EQ(unknown.code, kUsage);
  EXPECT_EQ(std::count(unknown.err.begin(), unknown.err.end(), '\n'), 1);
  EXPECT_NE(unknown.err.find("--nonsense"), std::string::npos);
  Parser again("tool", "does things");
  again.duration("-d,--duration", duration, "how long");
  const Parsed bad = parse(again, {"-d", "soon"});
  EXPECT_EQ(bad.code, kUsage);
  EXPECT_NE(bad.err.find("'soon' is no duration"), std::string::npos) << bad.err;
}

TEST(CliParser, HelpEndsWithExamplesAndVersionNeedsNoArguments) {
  std::vector<std::string> files;
  const auto make = [&files] {
    Parser parser("tool", "does things");
    parser.positional("FILE", files, "files", true).examples("  tool a.vmt\n");
    return parser;
  };
  Parser help = make();
  const Parsed helped = parse(help, {"--help"});
  EXPECT_EQ(helped.code, kOk);
  EXPECT_NE(helped.out.find("Examples:\n  tool a.vmt"), std::string::npos) << helped.out;
  Parser version = make();
  const Parsed versioned = parse(version, {"-V"});
  EXPECT_EQ(versioned.code, kOk);
  EXPECT_EQ(versioned.out.rfind("tool of vmwhy ", 0), 0U) << versioned.out;
  Parser missing = make();
  EXPECT_EQ(parse(missing, {}).code, kUsage);
}

TEST(CliColor, AlwaysAndNeverWinOverTheTerminal) {
  EXPECT_TRUE(use_color(Color::always, -1));
  EXPECT_FALSE(use_color(Color::never, 1));
  EXPECT_FALSE(use_color(Color::automatic, -1));
}

}  // namespace
}  // namespace vmwhy::cli
