// SPDX-License-Identifier: BSD-2-Clause
// What QEMU's own functions tell beside QMP, or without it.

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "qemu_calls_run.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/qemu.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

class QemuCalls : public ::testing::Test {
 protected:
  void SetUp() override {
    VMWHY_NEEDS(qemu);
    VMWHY_NEEDS(uprobes);
  }
  TempDir dir_;
};

TEST_F(QemuCalls, StopTypedIntoAHumanMonitorIsProven) {
  HumanMonitor hmp(dir_);
  QemuProcess vm(dir_, {.boot = "idle.bin", .args = hmp.arguments()});
  Watcher watch(dir_, {&vm});
  ASSERT_TRUE(follows_calls(watch));
  vm.cont();
  hmp.type("stop");
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "operator-stop", "proven"));
  EXPECT_EQ(text_of(incident.at("details").as_object(), "by"), "hmp");
  EXPECT_TRUE(has_evidence(incident, "uprobe", "vm_stop(paused) ← handle_hmp_command"));
  hmp.type("cont");
  watch.ended("pause");
  watch.finish();
}

TEST_F(QemuCalls, WhatTheCommandOfExpectDoesFirstIsSeen) {
  HumanMonitor hmp(dir_);
  QemuProcess vm(dir_, {.boot = "idle.bin", .args = hmp.arguments()});
  vm.cont();
  // Types stop, and stays until the prompt has come back.
  const std::string types_stop =
      "import socket, sys\n"
      "s = socket.socket(socket.AF_UNIX)\n"
      "s.connect(sys.argv[1])\n"
      "s.sendall(b'stop\\n')\n"
      "said = b''\n"
      "while said.count(b'(qemu)') < 2: said += s.recv(4096)\n";
  const Output run = run_program({binary("qmp-pausewatch"), "-p", std::to_string(vm.pid()), "--expect",
                                  "operator-stop/by=hmp/confidence=proven", "--within", "60s", "--",
                                  "python3", "-c", types_stop, hmp.path()},
                                 deadline_in(std::chrono::seconds(90)));
  EXPECT_EQ(run.status.code, 0) << run.out << run.err;
}

TEST_F(QemuCalls, GdbThatAttachesIsToldFromAStop) {
  const std::string gdb = dir_ / "gdb";
  QemuProcess vm(dir_, {.boot = "busy.bin", .args = {"-gdb", "unix:" + gdb + ",server=on,wait=off"}});
  Watcher watch(dir_, {&vm});
  ASSERT_TRUE(follows_calls(watch));
  vm.cont();
  const UniqueFd debugger = connect_to(gdb);
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "debugger", "likely"));
  EXPECT_TRUE(rules_out(incident, "operator-stop"));
  watch.finish();
}

TEST_F(QemuCalls, SnapshotThatIsOverAtOnceIsNamed) {
  const std::string image = dir_ / "d.qcow2";
  ASSERT_EQ(run_program({"qemu-img", "create", "-q", "-f", "qcow2", image, "16M"}).status.code, 0);
  HumanMonitor hmp(dir_);
  auto args = disk(image, "qcow2");
  for (const std::string& argument : hmp.arguments()) args.push_back(argument);
  QemuProcess vm(dir_, {.boot = "idle.bin", .args = args});
  Watcher watch(dir_, {&vm});
  ASSERT_TRUE(follows_calls(watch));
  vm.cont();
  hmp.type("savevm first");
  const auto incident = watch.ended("pause");
  EXPECT_TRUE(is_verdict(incident, "snapshot-or-save", "proven"));
  EXPECT_EQ(text_of(incident, "run_state"), "save-vm");
  EXPECT_TRUE(has_evidence(incident, "uprobe", "vm_stop(save-vm) ← save_snapshot ← hmp_savevm"));
  watch.finish();
}

TEST_F(QemuCalls, DumpOfTheMemoryIsToldFromASnapshot) {
  HumanMonitor hmp(dir_);
  QemuProcess vm(dir_, {.boot = "idle.bin", .args = hmp.arguments()});
  Watcher watch(dir_, {&vm});
  ASSERT_TRUE(follows_calls(watch));
  vm.cont();
  hmp.type("dump-guest-memory " + (dir_ / "core"));
  const auto incident = watch.ended("pause");
  EXPECT_TRUE(is_verdict(incident, "snapshot-or-save", "proven"));
  EXPECT_EQ(text_of(incident.at("details").as_object(), "phase"), "dump");
  watch.finish();
}

TEST_F(QemuCalls, PauseOfWhichNoMonitorHearsIsSeen) {
  VMWHY_NEEDS(tap);
  HumanMonitor hmp(dir_);
  const std::string name = "unheard" + std::to_string(::getpid());
  // A QEMU of its own: QemuProcess holds a monitor.
  ChildProcess qemu({"qemu-system-x86_64", "-name", name, "-accel", "tcg", "-display", "none", "-nodefaults",
                     "-m", "32", "-monitor", hmp.arguments()[1]});
  ASSERT_TRUE(wait_until([&] { return std::filesystem::exists(dir_ / "hmp"); }));
  Watcher watch(dir_, {"-p", std::to_string(qemu.pid())}, "watching " + name);
  ASSERT_TRUE(follows_calls(watch));
  hmp.type("stop");
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "operator-stop", "proven"));
  EXPECT_EQ(text_of(incident, "run_state"), "paused");
  hmp.type("cont");
  EXPECT_EQ(text_of(watch.ended("pause"), "ended_by"), "runstate_set");
  watch.finish();
}

TEST_F(QemuCalls, ErrnoThatQmpHidesIsInTheEvidence) {
  VMWHY_NEEDS(mount);
  const Mount small("tmpfs", dir_.path() / "small", "tmpfs", "size=4m");
  QemuProcess vm(dir_, {.boot = "writer.bin", .args = disk(sparse_file(small / "d.raw", 64 << 20))});
  Watcher watch(dir_, {&vm});
  ASSERT_TRUE(follows_calls(watch));
  vm.cont();
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  EXPECT_TRUE(has_evidence(incident, "uprobe", "blk_error_action(stop, write, ENOSPC)"));
  EXPECT_EQ(text_of(incident.at("details").as_object(), "errno"), "ENOSPC");
  watch.finish();
}

TEST_F(QemuCalls, ErrorThatBlkdebugMakesUpIsNotTakenForTheHosts) {
  const std::string image = dir_.sparse("d.raw", 64 << 20);
  QemuProcess vm(dir_, {.boot = "writer.bin", .args = failing_disk(image, "write", EDQUOT)});
  Watcher watch(dir_, {&vm});
  ASSERT_TRUE(follows_calls(watch));
  vm.cont();
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(has_evidence(incident, "uprobe", "blk_error_action(stop, write, EDQUOT)"));
  EXPECT_NE(text_of(incident, "confidence"), "proven") << text_of(incident, "cause");
  watch.finish();
}

TEST_F(QemuCalls, PauseBesideAClientThatIsToldOfNoEventsIsSeen) {
  VMWHY_NEEDS(tap);
  HumanMonitor hmp(dir_);
  const std::string name = "deaf" + std::to_string(::getpid()), socket = dir_ / "qmp";
  ChildProcess qemu({"qemu-system-x86_64", "-name", name, "-accel", "tcg", "-display", "none", "-nodefaults",
                     "-m", "32", "-monitor", hmp.arguments()[1], "-qmp",
                     "unix:" + socket + ",server=on,wait=off"});
  // It takes the greeting, and negotiates nothing.
  const UniqueFd deaf = connect_to(socket);
  char greeting = 0;
  ASSERT_EQ(::recv(deaf.get(), &greeting, 1, MSG_PEEK), 1);
  Watcher watch(dir_, {"-p", std::to_string(qemu.pid())}, "watching " + name);
  ASSERT_TRUE(follows_calls(watch));
  hmp.type("stop");
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "operator-stop", "proven"));
  EXPECT_EQ(text_of(incident, "run_state"), "paused");
  hmp.type("cont");
  EXPECT_EQ(text_of(watch.ended("pause"), "ended_by"), "runstate_set");
  watch.finish();
}

}  // namespace
}  // namespace vmwhy::test
