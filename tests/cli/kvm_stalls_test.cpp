// SPDX-License-Identifier: BSD-2-Clause
#include <gmock/gmock.h>
#include <unistd.h>

#include <sstream>

#include "tests/support/capability.hpp"
#include "tools/kvm-stalls/kvm_stalls.hpp"

namespace vmwhy::kvm_stalls {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

struct Outcome {
  int code;
  std::string out, err;
  std::optional<Options> options;
};

Outcome parse(const std::vector<std::string>& words) {
  std::vector<const char*> argv{"kvm-stalls"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  std::ostringstream out, err;
  Parsed parsed = parse_options(static_cast<int>(argv.size()), argv.data(), out, err);
  return {parsed.exit_code, out.str(), err.str(), std::move(parsed.options)};
}

Outcome call(const std::vector<std::string>& words) {
  Outcome parsed = parse(words);
  if (!parsed.options) return parsed;
  std::ostringstream out, err;
  const int code = run(*parsed.options, out, err);
  return {code, out.str(), err.str(), std::nullopt};
}

TEST(KvmStallsOptions, PairsConditionsWithActions) {
  const Outcome good = parse({"--on", "stall=waiting", "--on", "signal=SIGSTOP", "--on", "stall=any",
                              "--then", "exec date >> log", "--then", "exit", "--then", "exit"});
  ASSERT_TRUE(good.options) << good.err;
  const std::vector<Reaction>& reactions = good.options->reactions;
  ASSERT_EQ(reactions.size(), 3u);
  EXPECT_EQ(reactions[0].condition.to_string(), "stall=waiting");
  EXPECT_EQ(reactions[0].action.command, "date >> log");
  EXPECT_EQ(reactions[1].condition.to_string(), "signal=SIGSTOP");
  EXPECT_EQ(reactions[2].condition.to_string(), "stall=any");
  EXPECT_EQ(reactions[2].action.kind, act::Action::Kind::exit);
  const Outcome all = parse({"--on", "end", "--on", "signal=any", "--then", "exit"});
  ASSERT_TRUE(all.options) << all.err;
  EXPECT_EQ(all.options->reactions[1].action.kind, act::Action::Kind::exit);
}

TEST(KvmStallsOptions, TakesListsAndRefusesWhatItDoesNotKnow) {
  const Outcome good =
      parse({"-p", "1,2", "--vcpu", "0,4", "--min-latency", "50ms", "-i", "500ms", "--top", "3"});
  ASSERT_TRUE(good.options) << good.err;
  EXPECT_THAT(good.options->pids, ElementsAre(1, 2));
  EXPECT_THAT(good.options->vcpus, ElementsAre(0, 4));
  EXPECT_EQ(good.options->min_latency.count(), 50'000'000);
  EXPECT_FALSE(good.options->all);
  EXPECT_TRUE(parse({}).options->all);
  for (const std::vector<std::string>& bad : {std::vector<std::string>{"-p", "x"},
                                              {"-p", "0"},
                                              {"--min-latency", "0"},
                                              {"--min-latency", "2h"},
                                              {"-a", "-p", "1"},
                                              {"--top", "0"},
                                              {"--max-threads", "100000"},
                                              {"-i", "1ms"},
                                              {"-d", "soon"},
                                              {"--vcpu", "1-3"},
                                              {"--on", "stall=any"},
                                              {"--then", "exit"},
                                              {"--on", "stall=bored", "--then", "exit"},
                                              {"--on", "signal=SIGNAL", "--then", "exit"},
                                              {"--on", "end=now", "--then", "exit"},
                                              {"--on", "end", "--then", "snapshot"},
                                              {"--on", "end", "--then", "exec "}}) {
    const Outcome outcome = parse(bad);
    EXPECT_EQ(outcome.code, cli::kUsage) << bad.back();
    EXPECT_THAT(outcome.err, AllOf(HasSubstr("kvm-stalls: "), Not(HasSubstr("\n\n")))) << bad.back();
  }
}

TEST(KvmStallsOptions, EndsHelpWithExamples) {
  EXPECT_THAT(parse({"--help"}).out, HasSubstr("Examples:"));
}

TEST(KvmStallsRun, RefusesAProcessThatIsNoQemu) {
  VMWHY_NEEDS(bpf);
  const Outcome outcome = call({"-p", std::to_string(::getpid()), "-d", "1s"});
  EXPECT_EQ(outcome.code, cli::kEnvironment);
  EXPECT_THAT(outcome.err, HasSubstr(std::to_string(::getpid())));
}

TEST(KvmStallsRun, ChecksWhatWorksHere) {
  VMWHY_NEEDS(bpf);
  const Outcome outcome = call({"--check"});
  EXPECT_EQ(outcome.code, cli::kOk) << outcome.out;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("sched_switch"), HasSubstr("signal_generate")));
}

}  // namespace
}  // namespace vmwhy::kvm_stalls
