// SPDX-License-Identifier: BSD-2-Clause
#include <gmock/gmock.h>

#include <sstream>

#include "tests/support/capability.hpp"
#include "tests/support/child_process.hpp"
#include "tools/qmp-tap/qmp_tap.hpp"

namespace vmwhy::qmp_tap {
namespace {

using testing::HasSubstr;

struct Outcome {
  int code;
  std::string out, err;
  std::optional<Options> options;
};

Outcome parse(const std::vector<std::string>& words) {
  std::vector<const char*> argv{"qmp-tap"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  std::ostringstream out, err;
  Parsed parsed = parse_options(static_cast<int>(argv.size()), argv.data(), out, err);
  return {parsed.exit_code, out.str(), err.str(), std::move(parsed.options)};
}

TEST(QmpTapOptions, ListensToAllUnlessToldOtherwise) {
  const Outcome all = parse({});
  ASSERT_TRUE(all.options);
  EXPECT_TRUE(all.options->all);
  const Outcome some =
      parse({"-p", "12,13", "-n", "web1", "--only", "errors", "--slow", "100ms", "-d", "1m"});
  ASSERT_TRUE(some.options);
  EXPECT_FALSE(some.options->all);
  EXPECT_THAT(some.options->pids, testing::ElementsAre(12, 13));
  EXPECT_EQ(some.options->only, Only::errors);
  EXPECT_EQ(some.options->slow, std::chrono::milliseconds(100));
}

TEST(QmpTapOptions, SaysWhatIsWrong) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"-p", "0"}, "-p takes process ids"},
      {{"-p", "1x"}, "-p takes process ids"},
      {{"--only", "ev\033ents"}, "--only takes commands, events or errors, not 'ev\\x1bents'"},
      {{"-a", "-n", "web1"}, "-a excludes -p and -n"},
      {{"--slow", "1s", "--only", "events"}, "--slow is about commands"},
      {{"-b", "4096"}, "-b takes 1 to 1024 MiB"}};
  for (const auto& entry : cases) {
    const Outcome outcome = parse(entry.first);
    EXPECT_EQ(outcome.code, cli::kUsage);
    EXPECT_THAT(outcome.err, HasSubstr(entry.second));
  }
}

TEST(QmpTap, SaysThatAProcessIsNoQemu) {
  const test::Output outcome = test::run_program({test::binary("qmp-tap"), "-p", "1"});
  EXPECT_EQ(outcome.status.code, cli::kEnvironment);
  EXPECT_THAT(outcome.err, HasSubstr("qmp-call --list"));
  EXPECT_EQ(outcome.out, "");
}

}  // namespace
}  // namespace vmwhy::qmp_tap
