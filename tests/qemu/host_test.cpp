// SPDX-License-Identifier: BSD-2-Clause
// What the host does to a QEMU: stopped, frozen, traced, killed. None of it sends an event.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/capability.hpp"
#include "tests/support/cgroup.hpp"
#include "tests/support/qemu.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

bool runs(const QemuProcess& vm) {
  return wait_until([&] { return vm.serial() == "G"; });
}

TEST(HostFrozen, SigstopIsFoundAndItsEndToo) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  vm.process().signal(SIGSTOP);
  const auto stall = watch.incident("stall");
  EXPECT_TRUE(is_verdict(stall, "host-frozen", "proven"));
  EXPECT_TRUE(has_evidence(stall, "proc", "T"));
  EXPECT_TRUE(has_remedy(stall, "CONT"));
  vm.process().signal(SIGCONT);
  watch.ended("stall");
  watch.finish();
}

void frozen_by_cgroup(Freezer::Version version) {
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  const Freezer group(version);
  group.add(vm.pid());
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  group.freeze();
  const auto stall = watch.incident("stall");
  EXPECT_TRUE(is_verdict(stall, "host-frozen", "proven"));
  const std::string name = group.path().substr(group.path().rfind('/') + 1);
  EXPECT_TRUE(has_evidence(stall, "cgroup", name));
  group.thaw();
  watch.ended("stall");
  watch.finish();
}

TEST(HostFrozen, FreezerOfCgroupV1IsFound) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(freezer_v1);
  frozen_by_cgroup(Freezer::Version::v1);
}

// Its threads look asleep: only the group tells.
TEST(HostFrozen, FreezerOfCgroupV2IsFound) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(freezer_v2);
  frozen_by_cgroup(Freezer::Version::v2);
}

// Holds a process in a ptrace stop until it is destroyed, from a process of its own.
class Tracer {
 public:
  explicit Tracer(pid_t target) {
    int ready[2];
    if (::pipe(ready) != 0) return;
    pid_ = ::fork();
    if (pid_ == 0) hold(target, ready[1]);
    ::close(ready[1]);
    char byte;
    holds_ = ::read(ready[0], &byte, 1) == 1;
    ::close(ready[0]);
  }
  ~Tracer() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;
  bool holds() const { return holds_; }
  pid_t pid() const { return pid_; }

 private:
  [[noreturn]] static void hold(pid_t target, int ready) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::prctl(PR_SET_NAME, "some-debugger");
    int status = 0;
    if (::ptrace(PTRACE_SEIZE, target, nullptr, nullptr) != 0 ||
        ::ptrace(PTRACE_INTERRUPT, target, nullptr, nullptr) != 0 ||
        ::waitpid(target, &status, __WALL) != target)
      ::_exit(1);
    if (::write(ready, "x", 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  pid_t pid_ = -1;
  bool holds_ = false;
};

TEST(HostFrozen, PtraceStopNamesTheTracer) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(ptrace);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  {
    const Tracer tracer(vm.pid());
    ASSERT_TRUE(tracer.holds());
    const auto stall = watch.incident("stall");
    const std::string cause = text_of(stall, "cause");
    EXPECT_TRUE(cause == "debugger" || cause == "host-frozen") << cause;
    EXPECT_TRUE(has_evidence(stall, "proc", "some-debugger"));
  }
  watch.ended("stall");
  watch.finish();
}

TEST(QemuEnds, SigkillIsNamed) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  vm.process().signal(SIGKILL);
  ASSERT_TRUE(vm.process().wait());
  const auto end = watch.incident("exit");
  EXPECT_EQ(text_of(end, "cause"), "qemu-killed");
  EXPECT_NE(text_of(end, "summary").find("SIGKILL"), std::string::npos) << text_of(end, "summary");
  watch.finish();
}

TEST(QemuEnds, SigtermIsTheSignalThatQemuNames) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  vm.process().signal(SIGTERM);
  ASSERT_TRUE(vm.process().wait());
  const auto end = watch.incident("exit");
  EXPECT_EQ(text_of(end, "cause"), "qemu-killed");
  EXPECT_TRUE(has_evidence(end, "qmp", "host-signal"));
  watch.finish();
}

TEST(QemuEnds, QuitIsAnEndThatSomebodyAskedFor) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  vm.qmp().send("quit");
  ASSERT_TRUE(vm.process().wait());
  const auto end = watch.incident("exit");
  EXPECT_EQ(text_of(end, "cause"), "qemu-exited");
  EXPECT_TRUE(has_evidence(end, "qmp", "host-qmp-quit"));
  watch.finish();
}

TEST(QemuEnds, EndInThePauseClosesThePauseAndKeepsItsCause) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  vm.stop();
  watch.incident("pause");
  vm.process().signal(SIGKILL);
  ASSERT_TRUE(vm.process().wait());
  const auto over = watch.ended("pause");
  EXPECT_EQ(text_of(over, "cause"), "operator-stop");
  EXPECT_EQ(text_of(watch.incident("exit"), "cause"), "qemu-killed");
  watch.finish();
}

}  // namespace
}  // namespace vmwhy::test
