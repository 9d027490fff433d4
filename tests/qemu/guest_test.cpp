// SPDX-License-Identifier: BSD-2-Clause
// What the guest does to itself.

#include <gtest/gtest.h>

#include "tests/support/capability.hpp"
#include "tests/support/qemu.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

struct GuestDrill {
  const char* name;
  const char* guest;
  std::vector<std::string> args;
  const char* event;  ///< The event that carries the verdict.
  const char* kind;
  const char* run_state;  ///< Not asked where QEMU ends.
  const char* cause;
  const char* confidence;
  int events = 1;  ///< So many of them must have come: a loop takes its time on a busy machine.
};

void PrintTo(const GuestDrill& drill, std::ostream* out) {
  *out << drill.name;
}

/// Three resets, each with up to two more events of the firmware.
constexpr int kResetLoop = 7;

class GuestDid : public testing::TestWithParam<GuestDrill> {};

TEST_P(GuestDid, IsNamedWithTheEventThatCarriesIt) {
  VMWHY_NEEDS(qemu);
  const GuestDrill& drill = GetParam();
  const TempDir dir;
  QemuProcess vm(dir, {.boot = drill.guest, .args = drill.args});
  Watcher watch(dir, {&vm});
  vm.cont();
  for (int i = 0; i < drill.events; ++i) ASSERT_TRUE(vm.qmp().wait_event(drill.event)) << i;
  const bool pauses = std::string_view(drill.kind) == "pause";
  ASSERT_TRUE(!pauses || vm.wait_run_state(drill.run_state));
  const auto incident = watch.incident(drill.kind);
  // Where QEMU's functions are followed in time, they tell what asked for the reset.
  const bool seen = std::string_view(drill.guest) == "triple_fault.bin" &&
                    has_evidence(incident, "uprobe", "← raise_exception_err");
  EXPECT_TRUE(seen ? is_verdict(incident, "guest-triple-fault", "proven")
                   : is_verdict(incident, drill.cause, drill.confidence));
  EXPECT_TRUE(has_evidence(incident, "qmp", drill.event));
  EXPECT_TRUE(!pauses || text_of(incident, "run_state") == drill.run_state);
  watch.finish();
}

// A triple fault, port 0xcf9 and the keyboard controller look the same to QMP.
INSTANTIATE_TEST_SUITE_P(
    All, GuestDid,
    testing::Values(
        GuestDrill{"Panic",
                   "panic.bin",
                   {"-device", "pvpanic", "-action", "panic=pause"},
                   "GUEST_PANICKED",
                   "pause",
                   "guest-panicked",
                   "guest-panic",
                   "proven"},
        GuestDrill{"PanicThatPowersOff",
                   "panic.bin",
                   {"-device", "pvpanic"},
                   "GUEST_PANICKED",
                   "exit",
                   "",
                   "guest-panic",
                   "proven"},
        GuestDrill{"CrashLoaded",
                   "crash_loaded.bin",
                   {"-device", "pvpanic"},
                   "GUEST_CRASHLOADED",
                   "event",
                   "",
                   "guest-crash-loaded",
                   "proven"},
        GuestDrill{"Watchdog",
                   "watchdog.bin",
                   {"-device", "ib700", "-action", "watchdog=pause"},
                   "WATCHDOG",
                   "pause",
                   "watchdog",
                   "guest-watchdog",
                   "proven"},
        GuestDrill{"Shutdown",
                   "shutdown.bin",
                   {"-no-shutdown"},
                   "SHUTDOWN",
                   "pause",
                   "shutdown",
                   "guest-shutdown",
                   "proven"},
        GuestDrill{
            "ShutdownThatEndsQemu", "shutdown.bin", {}, "SHUTDOWN", "exit", "", "guest-shutdown", "proven"},
        GuestDrill{"TripleFault",
                   "triple_fault.bin",
                   {"-no-reboot", "-no-shutdown"},
                   "SHUTDOWN",
                   "pause",
                   "shutdown",
                   "guest-shutdown",
                   "likely"},
        GuestDrill{
            "Suspend", "suspend.bin", {}, "SUSPEND", "pause", "suspended", "guest-suspended", "proven"},
        GuestDrill{
            "ResetLoop", "reset.bin", {}, "RESET", "event", "", "guest-reset-loop", "proven", kResetLoop},
        GuestDrill{"TripleFaultLoop",
                   "triple_fault.bin",
                   {},
                   "RESET",
                   "event",
                   "",
                   "guest-reset-loop",
                   "proven",
                   kResetLoop}),
    [](const auto& info) { return info.param.name; });

// The reason of an internal error is on QEMU's stderr alone: QMP has a bare STOP.
TEST(KvmInternalError, EmulationFailureIsNamedWithWhatQemuPrinted) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(kvm);
  const TempDir dir;
  QemuProcess vm(
      dir, {.boot = "emulation_failure.elf", .args = {"-cpu", "qemu64"}, .accel = "kvm", .memory_mb = 64});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(vm.wait_run_state("internal-error"));
  const auto incident = watch.incident(
      [](const IncidentJson& report) { return text_of(report, "run_state") == "internal-error"; });
  EXPECT_EQ(text_of(incident, "cause"), "kvm-internal-error");
  EXPECT_TRUE(has_evidence(incident, "proc", "emulation failure"));
  watch.finish();
}

}  // namespace
}  // namespace vmwhy::test
