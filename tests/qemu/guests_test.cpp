// SPDX-License-Identifier: BSD-2-Clause
// The guests do what tests/guests/README.md says; without that no drill means anything.

#include <gtest/gtest.h>
#include <algorithm>

#include "tests/support/capability.hpp"
#include "tests/support/qemu.hpp"

namespace vmwhy::test {
namespace {

std::size_t count(const std::string& text, char wanted) {
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), wanted));
}

TEST(Guests, WriterWritesTheDisk) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  const std::string image = dir.sparse("disk", 64 << 20);
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(image)});
  vm.cont();
  ASSERT_TRUE(wait_until([&] { return count(vm.serial(), '.') > 3; })) << vm.serial();
  EXPECT_EQ(count(vm.serial(), 'E'), 0U);
}

TEST(Guests, ReaderReadsTheDisk) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "reader.bin", .args = disk(dir.sparse("disk", 64 << 20))});
  vm.cont();
  ASSERT_TRUE(wait_until([&] { return count(vm.serial(), '.') > 3; })) << vm.serial();
  EXPECT_EQ(count(vm.serial(), 'E'), 0U);
}

TEST(Guests, IdleSaysThatItRunsAndDoesNothing) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  vm.cont();
  ASSERT_TRUE(wait_until([&] { return vm.serial() == "G"; }));
  EXPECT_EQ(vm.run_state(), "running");
}

TEST(Guests, Ring3LoopReachesRing3) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "ring3_loop.elf", .memory_mb = 64});
  vm.cont();
  EXPECT_TRUE(wait_until([&] { return vm.serial().starts_with("LMU"); })) << vm.serial();
}

TEST(Guests, EmulationFailureReaches64BitMode) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "emulation_failure.elf", .memory_mb = 64});
  vm.cont();
  EXPECT_TRUE(wait_until([&] { return vm.serial().starts_with("LM"); })) << vm.serial();
}

struct Act {
  const char* guest;
  std::vector<std::string> args;
  const char* event;
  const char* run_state;  ///< "": QEMU ends.
};

class GuestActs : public testing::TestWithParam<Act> {};

TEST_P(GuestActs, MakesItsEvent) {
  VMWHY_NEEDS(qemu);
  const Act& act = GetParam();
  const TempDir dir;
  QemuProcess vm(dir, {.boot = act.guest, .args = act.args});
  vm.cont();
  ASSERT_TRUE(vm.qmp().wait_event(act.event));
  if (std::string_view(act.run_state).empty())
    EXPECT_TRUE(vm.process().wait());
  else
    EXPECT_TRUE(vm.wait_run_state(act.run_state));
}

INSTANTIATE_TEST_SUITE_P(
    All, GuestActs,
    testing::Values(
        Act{"panic.bin",
            {"-device", "pvpanic", "-action", "panic=pause"},
            "GUEST_PANICKED",
            "guest-panicked"},
        Act{"crash_loaded.bin", {"-device", "pvpanic"}, "GUEST_CRASHLOADED", "running"},
        Act{"triple_fault.bin", {"-no-reboot", "-no-shutdown"}, "SHUTDOWN", "shutdown"},
        Act{"shutdown.bin", {}, "SHUTDOWN", ""}, Act{"suspend.bin", {}, "SUSPEND", "suspended"},
        Act{"watchdog.bin", {"-device", "ib700", "-action", "watchdog=pause"}, "WATCHDOG", "watchdog"},
        Act{"reset.bin", {}, "RESET", "running"}, Act{"busy.bin", {}, "RESUME", "running"}),
    [](const auto& info) {
      std::string name;
      for (const char c : std::string_view(info.param.guest))
        if (c == '.')
          break;
        else if (c != '_')
          name += c;
      return name;
    });

}  // namespace
}  // namespace vmwhy::test
