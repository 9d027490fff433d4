// SPDX-License-Identifier: BSD-2-Clause
#include "tests/support/capability.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "tests/support/child_process.hpp"
#include "tests/support/temp_dir.hpp"

namespace vmwhy::test {
namespace {

TEST(Capability, RootIsTheEffectiveUser) {
  EXPECT_EQ(capability_missing("root").empty(), ::geteuid() == 0);
}

TEST(Capability, AnswersTheSameTwice) {
  EXPECT_EQ(&capability_missing("kmsg"), &capability_missing("kmsg"));
}

TEST(Capability, ReasonIsOneLine) {
  for (const auto name : capability_names())
    EXPECT_EQ(capability_missing(name).find('\n'), std::string::npos) << name;
}

TEST(Capability, UnknownNameIsNeverThere) {
  EXPECT_EQ(capability_missing("unicorn"), "no such capability");
}

TEST(Capability, OptionOfTheTestBinaryTellsTheSame) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  for (const std::string name : {"root", "kvm", "unicorn"}) {
    const Output output = run_program({self, "--capability", name});
    const std::string& missing = capability_missing(name);
    EXPECT_EQ(output.status.code, missing.empty() ? 0 : 1) << name;
    EXPECT_EQ(output.out, missing.empty() ? "" : missing + "\n") << name;
  }
}

TEST(ChildProcess, GivesLinesAndExitStatus) {
  ChildProcess child({"sh", "-c", "echo one; echo two >&2; echo three; exit 7"});
  EXPECT_EQ(child.wait_line("three"), "three");
  EXPECT_EQ(child.wait_error_line("two"), "two");
  const auto status = child.wait();
  ASSERT_TRUE(status);
  EXPECT_EQ(status->code, 7);
  EXPECT_EQ(child.out(), "one\nthree\n");
}

TEST(ChildProcess, EndOfOutputEndsTheWaitForALine) {
  ChildProcess child({"true"});
  EXPECT_FALSE(child.wait_line("never"));
}

TEST(ChildProcess, PassedDeadlineEndsTheWait) {
  ChildProcess child({"sleep", "1000"});
  EXPECT_FALSE(child.wait_line("never", deadline_in(20ms)));
  EXPECT_FALSE(child.wait(deadline_in(20ms)));
  EXPECT_TRUE(child.running());
}

TEST(ChildProcess, StoppedChildDiesWithItsOwner) {
  pid_t pid = 0;
  {
    ChildProcess child({"sleep", "1000"});
    pid = child.pid();
    child.signal(SIGSTOP);
  }
  EXPECT_EQ(::kill(pid, 0), -1);
}

TEST(ChildProcess, MissingProgramIs127) {
  EXPECT_EQ(run_program({"vmwhy-no-such-program"}).status.code, 127);
}

TEST(TempDir, IsGoneAfterTheTest) {
  std::string path;
  {
    const TempDir dir;
    path = dir.write("file", "text");
    EXPECT_EQ(read_file(path), "text");
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace vmwhy::test
