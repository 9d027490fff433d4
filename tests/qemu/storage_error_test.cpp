// SPDX-License-Identifier: BSD-2-Clause
// Requests that fail.

#include <gtest/gtest.h>
#include <signal.h>

#include <cerrno>
#include <filesystem>

#include "tests/support/capability.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/storage_server.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

constexpr std::uint64_t kDiskBytes = 64 << 20;

bool did_io(const QemuProcess& vm) {
  return wait_until([&] { return vm.serial().find('.') != std::string::npos; });
}

TEST(StorageError, FailedWriteIsNamedAndContGoesOn) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "writer.bin",
                       .args = failing_disk(dir.sparse("disk.raw", kDiskBytes), "write", EIO, true)});
  Watcher watch(dir, {&vm});
  vm.cont();
  const auto error = vm.qmp().wait_event("BLOCK_IO_ERROR");
  ASSERT_TRUE(error);
  EXPECT_FALSE(error->at("data").at("nospace").as_bool());
  ASSERT_TRUE(vm.wait_run_state("io-error"));

  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-io-error", "likely"));
  EXPECT_EQ(text_of(incident, "run_state"), "io-error");
  EXPECT_TRUE(has_evidence(incident, "qmp", "Input/output error"));
  EXPECT_NE(text_of(incident, "summary").find("write"), std::string::npos) << text_of(incident, "summary");
  EXPECT_TRUE(rules_out(incident, "storage-full"));

  vm.cont();
  watch.ended("pause");
  watch.finish();
}

TEST(StorageError, FailedReadIsNamedAsARead) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(
      dir, {.boot = "reader.bin", .args = failing_disk(dir.sparse("disk.raw", kDiskBytes), "read", EIO)});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(vm.qmp().wait_event("STOP"));
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-io-error", "likely"));
  EXPECT_NE(text_of(incident, "summary").find("read"), std::string::npos) << text_of(incident, "summary");
  watch.finish();
}

// werror's default lets only ENOSPC pause: nothing of it is a pause, whatever io-status says later.
TEST(StorageError, ErrorThatIsOnlyReportedMakesNoPause) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "writer.bin",
                       .args = failing_disk(dir.sparse("disk.raw", kDiskBytes), "write", EIO, true, "")});
  Watcher watch(dir, {&vm});
  vm.cont();
  const auto error = vm.qmp().wait_event("BLOCK_IO_ERROR");
  ASSERT_TRUE(error);
  EXPECT_EQ(error->at("data").at("action").as_string(), "report");
  ASSERT_TRUE(did_io(vm));
  EXPECT_EQ(vm.run_state(), "running");
  EXPECT_TRUE(none_of_kind(watch.finish(), "pause"));
}

// With -blockdev io-status keeps the first error for ever: the second pause must be judged by its own event.
TEST(StorageError, LaterErrorIsNotExplainedByAnEarlierOne) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(nbdkit);
  const TempDir dir;
  const std::string trigger = dir / "trigger";
  NbdServer server(dir, {"error"}, {"error-pwrite=ENOSPC", "error-rate=100%", "error-file=" + trigger});
  QemuProcess vm(dir, {.boot = "writer.bin", .args = nbd_disk(server.socket())});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(did_io(vm));
  dir.write("trigger", "");
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto first = watch.incident("pause");
  EXPECT_TRUE(has_evidence(first, "qmp", "No space left on device"));
  std::filesystem::remove(trigger);
  vm.cont();
  watch.ended("pause");

  server.process().signal(SIGKILL);
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto second = watch.incident([&](const IncidentJson& report) {
    return text_of(report, "kind") == "pause" && !report.at("began_before_watch").as_bool() &&
           report.at("begin_ns") != first.at("begin_ns");
  });
  EXPECT_NE(text_of(second, "cause"), "storage-full");
  EXPECT_TRUE(has_evidence(second, "qmp", "Input/output error"));
  watch.finish();
}

TEST(StorageError, KilledNbdServerIsAnErrorOfItsNode) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(nbdkit);
  const TempDir dir;
  NbdServer server(dir);
  QemuProcess vm(dir, {.boot = "writer.bin", .args = nbd_disk(server.socket())});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(did_io(vm));
  server.process().signal(SIGKILL);
  ASSERT_TRUE(vm.qmp().wait_event("BLOCK_IO_ERROR"));
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto incident = watch.incident("pause");
  const std::string cause = text_of(incident, "cause");
  EXPECT_TRUE(cause == "storage-io-error" || cause == "storage-network") << cause;
  EXPECT_TRUE(has_evidence(incident, "qmp", "Input/output error"));
  EXPECT_NE(text_of(incident, "summary").find("disk0"), std::string::npos) << text_of(incident, "summary");
  watch.finish();
}

}  // namespace
}  // namespace vmwhy::test
