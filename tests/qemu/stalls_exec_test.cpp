// SPDX-License-Identifier: BSD-2-Clause
// kvm-stalls on a QEMU that becomes another program, and on one that a script becomes.

#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>

#include "stalls_run.hpp"
#include "tests/support/capability.hpp"

namespace vmwhy::test {
namespace {

class StallsOfWhoExecutes : public ::testing::Test {
 protected:
  void SetUp() override {
    VMWHY_NEEDS(qemu);
    VMWHY_NEEDS(bpf);
  }

  /// A shell in the place of a QEMU: it waits for a line, and becomes what `command` says.
  static ChildProcess qemu_that_becomes(const TempDir& dir, const std::string& command) {
    const std::string qemu = dir / "qemu-system-x86_64";
    std::filesystem::copy_file(program_path("sh"), qemu);
    return ChildProcess(
        {.args = {qemu, "-c", "read -r line; exec " + command + "; exit 1"}, .stdin_pipe = true});
  }
  static std::string real_qemu() {
    return program_path("qemu-system-x86_64") +
           " -S -nodefaults -machine pc -m 16 -display none -name became,debug-threads=on";
  }
};

TEST_F(StallsOfWhoExecutes, WhatIsNoQemuAnyMoreIsNotWatched) {
  const TempDir dir;
  ChildProcess qemu = qemu_that_becomes(dir, "sleep 1000");
  const std::string trace = dir / "exec.vmt";
  ChildProcess run({binary("kvm-stalls"), "-p", std::to_string(qemu.pid()), "-o", trace});
  ASSERT_TRUE(run.wait_error_line("watching")) << run.err();
  qemu.write("go\n");
  // It was the only one: the tool ends.
  const auto status = run.wait();
  ASSERT_TRUE(status);
  EXPECT_EQ(status->code, 0) << run.err();
  EXPECT_NE(run.out().find("process " + std::to_string(qemu.pid()) +
                           " became another program by execve, sleep: no QEMU, and no longer watched"),
            std::string::npos)
      << run.out();
  const std::string end = run_program({binary("vm-trace"), "cat", "--type", "vm_end", trace}).out;
  EXPECT_NE(end.find("became another program by execve, sleep"), std::string::npos) << end;
}

TEST_F(StallsOfWhoExecutes, AQemuThatBecomesAQemuIsWatchedAnew) {
  const TempDir dir;
  ChildProcess qemu = qemu_that_becomes(dir, real_qemu());
  ChildProcess run({binary("kvm-stalls"), "-p", std::to_string(qemu.pid()), "-i", "100ms"});
  ASSERT_TRUE(run.wait_error_line("watching")) << run.err();
  qemu.write("go\n");
  EXPECT_TRUE(run.wait_line("became another program by execve, qemu-system-")) << run.out();
  EXPECT_TRUE(run.wait_line("  vCPU 0 ")) << run.out();
  run.signal(SIGINT);
  ASSERT_TRUE(run.wait());
  EXPECT_EQ(run.out().find("wrong:"), std::string::npos) << run.out();
}

TEST_F(StallsOfWhoExecutes, AScriptIsRefusedAndWatchedWhenItBecomesAQemu) {
  const TempDir dir;
  ChildProcess script({.args = {"sh", "-c", "read -r line; exec " + real_qemu()}, .stdin_pipe = true});
  const std::string pid = std::to_string(script.pid());
  const auto refused = run_program({binary("kvm-stalls"), "-p", pid});
  EXPECT_EQ(refused.status.code, 3);
  EXPECT_NE(refused.err.find(pid), std::string::npos) << refused.err;
  EXPECT_EQ(refused.err.find('\n'), refused.err.size() - 1) << refused.err;
  ChildProcess run({binary("kvm-stalls"), "-a", "-i", "100ms"});
  ASSERT_TRUE(run.wait_error_line("watching")) << run.err();
  script.write("go\n");
  EXPECT_TRUE(run.wait_line("became [" + pid + "]")) << run.out();
  EXPECT_TRUE(run.wait_line("  vCPU 0 ")) << run.out();
  run.signal(SIGINT);
  ASSERT_TRUE(run.wait());
}

}  // namespace
}  // namespace vmwhy::test
