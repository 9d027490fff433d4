// SPDX-License-Identifier: BSD-2-Clause
// Pauses that somebody asked for: stop, -S, a debugger, a snapshot.

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "tests/support/capability.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/storage_server.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

bool runs(const QemuProcess& vm) {
  return wait_until([&] { return vm.serial() == "G"; });
}

bool any_pause(const IncidentJson& report) {
  return text_of(report, "kind") == "pause";
}

TEST(OperatorStop, StopIsNamedAndContEndsIt) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  vm.stop();
  ASSERT_EQ(vm.run_state(), "paused");
  const auto incident = watch.incident("pause");
  // Beside its own monitor it listens to this test's, where it may.
  const bool tapped = capability_missing("tap").empty();
  EXPECT_TRUE(is_verdict(incident, "operator-stop", tapped ? "proven" : "likely"));
  EXPECT_EQ(text_of(incident, "run_state"), "paused");
  EXPECT_TRUE(has_evidence(incident, "qmp", "STOP"));
  if (tapped) {
    const auto& sender = incident.at("details").as_object().at("sent_by").as_object();
    EXPECT_EQ(sender.at("pid").to_number<pid_t>(), ::getpid());
    EXPECT_EQ(text_of(sender, "command"), "stop");
  } else {
    EXPECT_FALSE(incident.at("not_proved").as_array().empty()) << "who sent it was not seen";
  }
  vm.cont();
  EXPECT_EQ(text_of(watch.ended("pause"), "ended_by"), "RESUME");
  watch.finish();
}

TEST(OperatorStop, PauseThatBeganBeforeTheWatchIsReported) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  vm.stop();
  Watcher watch(dir, {&vm});
  const auto incident = watch.incident(any_pause);
  EXPECT_EQ(text_of(incident, "cause"), "operator-stop");
  EXPECT_NE(text_of(incident, "confidence"), "proven");
  EXPECT_TRUE(incident.at("began_before_watch").as_bool());
  watch.finish();
}

TEST(OperatorStop, OneOfTwoVmsIsNamedAndTheOtherIsNot) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess first(dir, {.name = "first", .boot = "idle.bin"});
  QemuProcess second(dir, {.name = "second", .boot = "idle.bin"});
  first.cont();
  second.cont();
  ASSERT_TRUE(runs(first) && runs(second));
  Watcher watch(dir, {&first, &second});
  second.stop();
  watch.incident("pause", "second");
  for (const auto& incident : watch.finish())
    EXPECT_EQ(text_of(incident.at("vm").as_object(), "name"), "second");
}

TEST(NeverStarted, VmThatWaitsForItsFirstContIsNoPauseOfARunningOne) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  ASSERT_EQ(vm.run_state(), "prelaunch");
  Watcher watch(dir, {&vm});
  const auto incident = watch.incident(any_pause);
  EXPECT_EQ(text_of(incident, "cause"), "never-started");
  EXPECT_EQ(text_of(incident, "run_state"), "prelaunch");
  EXPECT_TRUE(has_remedy(incident, "cont"));
  watch.finish();
}

// A reset while stopped makes "prelaunch" too: the VM had run.
TEST(NeverStarted, PrelaunchAfterAResetIsTheStopThatCameBefore) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  vm.stop();
  const auto stopped = watch.incident("pause");
  vm.call("system_reset");
  ASSERT_TRUE(vm.qmp().wait_event("RESET"));
  ASSERT_EQ(vm.run_state(), "prelaunch");
  vm.cont();
  ASSERT_TRUE(vm.wait_run_state("running"));
  watch.ended("pause");
  for (const auto& incident : watch.finish())
    if (incident.at("begin_ns") == stopped.at("begin_ns"))
      EXPECT_EQ(text_of(incident, "cause"), "operator-stop");
    else
      EXPECT_EQ(text_of(incident, "cause"), "never-started") << "before the first cont";
}

// The least of GDB's remote protocol: packets are "$data#checksum".
class GdbClient {
 public:
  explicit GdbClient(const std::string& socket) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, socket.data(), std::min(socket.size(), sizeof address.sun_path - 1));
    connected_ = ::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  bool connected() const { return connected_; }
  void send(const std::string& data) const {
    unsigned sum = 0;
    for (const char c : data) sum += static_cast<unsigned char>(c);
    char tail[4];
    std::snprintf(tail, sizeof tail, "#%02x", sum & 0xff);
    const std::string packet = "+$" + data + tail;
    EXPECT_EQ(::send(fd_.get(), packet.data(), packet.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(packet.size()));
  }

 private:
  UniqueFd fd_;
  bool connected_ = false;
};

TEST(Debugger, SingleStepByTheGdbStubIsNamed) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir,
                 {.boot = "busy.bin", .args = {"-gdb", "unix:" + (dir / "gdb") + ",server=on,wait=off"}});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  const GdbClient gdb(dir / "gdb");
  ASSERT_TRUE(gdb.connected());
  ASSERT_TRUE(vm.wait_run_state("paused")) << "a client of the stub stops the VM";
  gdb.send("s");
  ASSERT_TRUE(vm.wait_run_state("debug"));
  const auto incident =
      watch.incident([](const IncidentJson& report) { return text_of(report, "run_state") == "debug"; });
  EXPECT_EQ(text_of(incident, "cause"), "debugger");
  watch.finish();
}

std::vector<std::string> qcow2_disk(const TempDir& dir) {
  const std::string image = dir / "disk.qcow2";
  EXPECT_EQ(run_program({"qemu-img", "create", "-q", "-f", "qcow2", image, "64M"}).status.code, 0);
  return disk(image, "qcow2");
}

TEST(SnapshotOrSave, SnapshotSaveIsToldFromAStop) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(qemu_img);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin", .args = qcow2_disk(dir)});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  vm.call(
      "snapshot-save",
      {{"job-id", "save0"}, {"tag", "t"}, {"vmstate", "disk0"}, {"devices", boost::json::array{"disk0"}}});
  ASSERT_TRUE(vm.qmp().wait_event("STOP"));
  ASSERT_TRUE(vm.qmp().wait_event("RESUME"));
  const auto incident = watch.ended("pause");
  EXPECT_EQ(text_of(incident, "cause"), "snapshot-or-save");
  EXPECT_TRUE(has_evidence(incident, "qmp", "snapshot-save"));
  watch.finish();
}

// savevm holds the main loop: query-status cannot tell of save-vm while it lasts.
TEST(SnapshotOrSave, SlowSavevmIsNotTakenForAnOperatorsStop) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(qemu_img);
  VMWHY_NEEDS(nbdkit);
  const TempDir dir;
  NbdServer server(dir, {"delay"}, {"wdelay=300ms"});
  ASSERT_EQ(run_program(
                {"qemu-img", "create", "-q", "-f", "qcow2", "nbd+unix:///?socket=" + server.socket(), "60M"})
                .status.code,
            0);
  QemuProcess vm(dir, {.boot = "idle.bin",
                       .args = {"-blockdev",
                                "driver=nbd,node-name=file0,server.type=unix,server.path=" + server.socket(),
                                "-blockdev", "driver=qcow2,node-name=disk0,file=file0", "-device",
                                "virtio-blk-pci,drive=disk0"}});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  vm.qmp().send("human-monitor-command", {{"command-line", "savevm slow"}});
  ASSERT_TRUE(vm.qmp().wait_event("STOP"));
  ASSERT_TRUE(vm.qmp().wait_event("RESUME"));
  const auto incident = watch.ended("pause");
  EXPECT_FALSE(text_of(incident, "cause") == "operator-stop" && text_of(incident, "confidence") == "proven");
  watch.finish();
}

TEST(SnapshotOrSave, FailedLoadvmLeavesRestoreVm) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(qemu_img);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin", .args = qcow2_disk(dir)});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  EXPECT_NE(vm.hmp("loadvm nosuch").find("does not exist"), std::string::npos);
  ASSERT_EQ(vm.run_state(), "restore-vm");
  const auto incident = watch.incident("pause");
  EXPECT_EQ(text_of(incident, "cause"), "snapshot-or-save");
  EXPECT_EQ(text_of(incident, "run_state"), "restore-vm");
  watch.finish();
}

}  // namespace
}  // namespace vmwhy::test
