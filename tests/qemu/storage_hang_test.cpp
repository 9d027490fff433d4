// SPDX-License-Identifier: BSD-2-Clause
// Storage that neither works nor fails: no event comes, and questions that touch it hang whoever asks.

#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json/serialize.hpp>

#include "tests/support/capability.hpp"
#include "tests/support/fuse_disk.hpp"
#include "tests/support/loop_device.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/storage_server.hpp"
#include "trace/reader.hpp"
#include "trace/records.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

bool did_io(const QemuProcess& vm) {
  return wait_until([&] { return vm.serial().find('.') != std::string::npos; });
}

/// No request of the writer has ended for a while: one hangs.
bool guest_is_stuck(const QemuProcess& vm) {
  return wait_until([&] {
    const std::size_t before = vm.serial().size();
    wait_until(deadline_in(300ms), [] { return false; });
    return vm.serial().size() == before;
  });
}

/// The watcher's own first questions about block nodes are answered: asked while attributes hang they would
/// be the trap that the test is about.
bool asked_about_nodes(const Watcher& watch) {
  return wait_until([&] {
    const auto reader = trace::Reader::open(watch.trace());
    bool answered = false;
    if (reader) {
      (*reader)->for_each([&](const trace::RecordView& record) {
        answered =
            answered ||
            (record.header.type == static_cast<std::uint16_t>(trace::RecordType::qmp_message) &&
             record.as<trace::QmpMessage>().kind == static_cast<std::uint32_t>(trace::QmpKind::return_) &&
             record.text.starts_with("query-named-block-nodes"));
      });
    }
    return answered;
  });
}

// query-block makes QEMU's main thread stat the image: on such a file system it would freeze the VM for good.
// A watcher must find out first, and not ask.
TEST(StorageHang, WatcherDoesNotFreezeAVmWhoseFileSystemHangs) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(fuse);
  const TempDir dir;
  FuseDisk fuse(dir.path() / "fuse");
  QemuProcess vm(dir, {.boot = "idle.bin", .args = disk(fuse.file(), "raw", "file", "locking=off")});
  vm.cont();
  ASSERT_TRUE(wait_until([&] { return vm.serial() == "G"; }));
  Watcher watch(dir, {&vm});
  ASSERT_TRUE(asked_about_nodes(watch));
  fuse.hang_attributes();
  vm.stop();
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(fuse.hung()) << "nobody looked whether the file answers";
  EXPECT_EQ(vm.run_state(), "paused");
  const std::string text = boost::json::serialize(incident);
  EXPECT_NE(text.find("query-block"), std::string::npos) << "it does not say what it did not ask: " << text;
  vm.cont();
  EXPECT_EQ(vm.run_state(), "running");
  fuse.let_go();
  watch.finish();

  // And the trap is real: asked now, QEMU itself would hang.
  fuse.hang_attributes();
  vm.qmp().send("query-block");
  EXPECT_TRUE(wait_until([&] { return fuse.hung(); }));
  fuse.let_go();
  EXPECT_EQ(vm.run_state(), "running");
}

// The file system is frozen: a worker of QEMU waits in D, QMP answers, no event comes.
TEST(StorageHang, WorkerInUninterruptibleSleepIsFoundWithoutAnyEvent) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(ext4);
  const TempDir dir;
  const std::string image = dir.sparse("ext4", 128 << 20);
  ASSERT_EQ(run_program({"mkfs.ext4", "-q", "-F", image}).status.code, 0);
  const LoopDevice loop(image);
  const Mount ext4(loop.path(), dir.path() / "fs", "ext4");
  QemuProcess vm(dir, {.boot = "writer.bin",
                       .args = disk(sparse_file(ext4 / "disk.raw", 64 << 20), "raw", "file", "aio=threads")});
  // A grandchild thaws when its stdin ends, which it does however this test ends.
  ChildProcess freezer(ChildProcess::Options{
      .args =
          {"sh", "-c",
           "exec 3<&0; (read go <&3; fsfreeze -f \"$0\" && echo frozen; read thaw <&3; fsfreeze -u \"$0\"; "
           "echo thawed) & wait",
           ext4.path().string()},
      .stdin_pipe = true});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(did_io(vm));
  freezer.write("go\n");
  ASSERT_TRUE(freezer.wait_line("frozen")) << freezer.err();

  const auto stall = watch.incident("stall");
  EXPECT_EQ(text_of(stall, "cause"), "storage-hang");
  EXPECT_TRUE(has_evidence(stall, "proc", " D"));
  EXPECT_EQ(vm.run_state(), "running");
  freezer.close_stdin();
  ASSERT_TRUE(freezer.wait_line("thawed"));
  watch.finish();
}

// The server answers stat, but no write: FUSE waits in S, so the letter of the thread's state tells nothing.
TEST(StorageHang, WorkerThatWaitsForAFuseServerIsFoundWithoutAnyEvent) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(fuse);
  const TempDir dir;
  FuseDisk fuse(dir.path() / "fuse");
  QemuProcess vm(dir,
                 {.boot = "writer.bin", .args = disk(fuse.file(), "raw", "file", "locking=off,aio=threads")});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(did_io(vm));
  fuse.hang_data();
  const auto stall = watch.incident("stall");
  EXPECT_EQ(text_of(stall, "cause"), "storage-hang");
  EXPECT_TRUE(has_evidence(stall, "proc", "fuse"));
  EXPECT_EQ(text_of(stall, "confidence"), "proven");
  const std::string text = boost::json::serialize(stall);
  EXPECT_NE(text_of(stall, "summary").find(fuse.file()), std::string::npos) << text;
  EXPECT_NE(text.find("what query-named-block-nodes, query-block, query-blockstats would say"),
            std::string::npos)
      << text;
  EXPECT_EQ(vm.run_state(), "running");
  fuse.let_go();
  watch.finish();
}

// The server stands still with a request in flight. A `stop` then drains, and the main loop with it.
TEST(StorageHang, StopWhileRequestsHangBlocksTheMainLoop) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(nbdkit);
  const TempDir dir;
  NbdServer server(dir);
  QemuProcess vm(dir, {.boot = "writer.bin", .args = nbd_disk(server.socket())});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(did_io(vm));
  server.process().signal(SIGSTOP);
  ASSERT_TRUE(guest_is_stuck(vm));
  vm.qmp().send("stop");
  ASSERT_TRUE(vm.qmp().wait_event("STOP"));
  const auto stall = watch.incident([](const IncidentJson& report) {
    const std::string cause = text_of(report, "cause");
    return (cause == "qemu-main-loop-blocked" || cause == "storage-hang") &&
           has_evidence(report, "qmp", "query-status");
  });
  EXPECT_FALSE(stall.empty());
  server.process().signal(SIGCONT);
  ASSERT_TRUE(vm.wait_run_state("paused"));
  watch.finish();
}

// A `stop` while a write fails: STOP comes first, the run state stays "paused", and `cont` will fall back.
TEST(StorageHang, StopBeforeTheErrorIsAStopWithATrap) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(nbdkit);
  const TempDir dir;
  NbdServer server(dir);
  QemuProcess vm(dir, {.boot = "writer.bin", .args = nbd_disk(server.socket())});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(did_io(vm));
  server.process().signal(SIGSTOP);
  ASSERT_TRUE(guest_is_stuck(vm));
  vm.qmp().send("stop");
  ASSERT_TRUE(vm.qmp().wait_event("STOP"));
  server.process().signal(SIGKILL);
  server.process().signal(SIGCONT);
  ASSERT_TRUE(vm.qmp().wait_event("BLOCK_IO_ERROR"));
  EXPECT_EQ(vm.run_state(), "paused");
  const auto incident = watch.incident("pause");
  EXPECT_EQ(text_of(incident, "cause"), "operator-stop");
  EXPECT_TRUE(has_evidence(incident, "qmp", "Input/output error"));
  watch.finish();
}

}  // namespace
}  // namespace vmwhy::test
