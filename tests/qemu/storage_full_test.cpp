// SPDX-License-Identifier: BSD-2-Clause
// "No space left on device" that is true, and near misses of it. False ones are in
// storage_device_gone_test.cpp.

#include <gtest/gtest.h>
#include <sys/statvfs.h>

#include <boost/json/object.hpp>
#include <cerrno>
#include <filesystem>

#include "tests/support/capability.hpp"
#include "tests/support/loop_device.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/qemu.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

constexpr std::uint64_t kDiskBytes = 64 << 20;

TEST(StorageFull, TmpfsThatFillsUpIsNamedAndGoesOnAfterTheRemedy) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(sparse_file(small / "disk.raw", kDiskBytes))});
  Watcher watch(dir, {&vm});
  vm.cont();
  const auto error = vm.qmp().wait_event("BLOCK_IO_ERROR");
  ASSERT_TRUE(error);
  EXPECT_TRUE(error->at("data").at("nospace").as_bool());
  ASSERT_TRUE(vm.wait_run_state("io-error"));

  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  EXPECT_EQ(text_of(incident, "run_state"), "io-error");
  EXPECT_NE(text_of(incident, "summary").find(small / "disk.raw"), std::string::npos)
      << text_of(incident, "summary");
  EXPECT_TRUE(has_evidence(incident, "qmp", "No space left on device"));
  EXPECT_TRUE(has_evidence(incident, "proc", "0 bytes free"));
  EXPECT_TRUE(rules_out(incident, "storage-device-gone"));
  EXPECT_TRUE(has_remedy(incident, "cont"));

  small.remount("size=100m");
  vm.cont();
  const auto over = watch.ended("pause");
  EXPECT_TRUE(is_verdict(over, "storage-full", "proven"));
  EXPECT_EQ(text_of(over, "ended_by"), "RESUME");
  watch.finish();
}

// A write to an image never needs an inode: what fails without one is making a new image (a snapshot's, a
// mirror's). So no pause comes of it, and where blocks run out too, those are the cause.
TEST(StorageFull, InodesThatAreUsedUpFailNewImagesAndNoWrite) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m,nr_inodes=3");
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(sparse_file(small / "disk.raw", kDiskBytes))});
  sparse_file(small / "the-last-inode", 0);
  const boost::json::object image{{"driver", "file"}, {"filename", small / "new.raw"}, {"size", 65536}};
  ASSERT_TRUE(vm.call("blockdev-create", {{"job-id", "new"}, {"options", image}}).contains("return"));
  std::string error;
  ASSERT_TRUE(wait_until([&] {
    const auto reply = vm.call("query-jobs");
    const auto& job = reply.at("return").as_array().at(0).as_object();
    if (job.contains("error")) error = std::string(job.at("error").as_string());
    return job.at("status").as_string() == "concluded";
  }));
  EXPECT_NE(error.find("No space left on device"), std::string::npos) << error;

  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(wait_until([&] { return vm.serial().find('.') != std::string::npos; })) << "no write was done";
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  EXPECT_EQ(incident.at("details").at("exhausted").as_string(), "blocks");
  EXPECT_TRUE(has_evidence(incident, "proc", "0 of 3 inodes free"));
  watch.finish();
}

TEST(StorageFull, AnImageThatIsDeletedIsToBeSavedFirst) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(sparse_file(small / "disk.raw", kDiskBytes))});
  std::filesystem::remove(small / "disk.raw");
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  EXPECT_TRUE(
      has_remedy(incident, "disk.raw is deleted: copy it from /proc/" + std::to_string(vm.pid()) + "/fd/"));
  watch.finish();
}

TEST(StorageFull, Ext4OnALoopDeviceIsNamed) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(ext4);
  const TempDir dir;
  const std::string image = dir.sparse("ext4", 24 << 20);
  ASSERT_EQ(run_program({"mkfs.ext4", "-q", "-F", image}).status.code, 0);
  const LoopDevice loop(image);
  const Mount ext4(loop.path(), dir.path() / "small", "ext4");
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(sparse_file(ext4 / "disk.raw", kDiskBytes))});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(vm.qmp().wait_event("BLOCK_IO_ERROR"));
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  EXPECT_TRUE(has_evidence(incident, "proc", "ext4"));
  EXPECT_TRUE(rules_out(incident, "storage-device-gone"));
  watch.finish();
}

TEST(StorageFull, IsFoundBelowQcow2AndAnIothread) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(qemu_img);
  VMWHY_NEEDS(mount);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  const std::string image = small / "disk.qcow2";
  ASSERT_EQ(run_program({"qemu-img", "create", "-q", "-f", "qcow2", image, "64M"}).status.code, 0);
  QemuProcess vm(dir, {.boot = "writer.bin",
                       .args = {"-object", "iothread,id=io0", "-blockdev",
                                "driver=file,node-name=file0,filename=" + image, "-blockdev",
                                "driver=qcow2,node-name=disk0,file=file0", "-device",
                                "virtio-blk-pci,drive=disk0,id=vd0,iothread=io0"}});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(vm.qmp().wait_event("STOP"));
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  EXPECT_NE(text_of(incident, "summary").find("disk0"), std::string::npos) << text_of(incident, "summary");
  watch.finish();
}

// -drive names the device and leaves the node a generated name.
TEST(StorageFull, IsFoundBehindADriveWithAGeneratedNode) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  const std::string image = sparse_file(small / "disk.raw", kDiskBytes);
  QemuProcess vm(dir, {.boot = "writer.bin",
                       .args = {"-drive", "file=" + image + ",format=raw,if=none,id=drive0", "-device",
                                "ide-hd,drive=drive0,id=ide0"}});
  Watcher watch(dir, {&vm});
  vm.cont();
  const auto error = vm.qmp().wait_event("BLOCK_IO_ERROR");
  ASSERT_TRUE(error);
  EXPECT_EQ(error->at("data").at("device").as_string(), "drive0");
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  EXPECT_NE(text_of(incident, "summary").find(image), std::string::npos) << text_of(incident, "summary");
  watch.finish();
}

// QEMU says ENOSPC, but the file system has room: no proof, and the report must say so.
TEST(StorageFull, IsNotProvenWhereTheFileSystemHasRoom) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(
      dir, {.boot = "writer.bin", .args = failing_disk(dir.sparse("disk.raw", kDiskBytes), "write", ENOSPC)});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(vm.qmp().wait_event("STOP"));
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto incident = watch.incident("pause");
  EXPECT_NE(text_of(incident, "confidence"), "proven") << text_of(incident, "summary");
  EXPECT_NE(text_of(incident, "cause"), "storage-device-gone");
  EXPECT_FALSE(incident.at("not_proved").as_array().empty());
  watch.finish();
}

TEST(StorageFull, ContWithoutTheRemedyIsAPauseLoop) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(sparse_file(small / "disk.raw", kDiskBytes))});
  Watcher watch(dir, {&vm});
  vm.cont();
  for (int i = 0; i < 6; ++i) {
    ASSERT_TRUE(vm.qmp().wait_event("STOP"));
    ASSERT_TRUE(vm.wait_run_state("io-error"));
    if (i < 5) vm.cont();
  }
  const auto loop =
      watch.incident([](const IncidentJson& report) { return text_of(report, "cause") == "pause-loop"; });
  EXPECT_TRUE(has_evidence(loop, "qmp", "STOP"));
  watch.finish();
}

TEST(StorageFull, WerrorReportMakesNoPause) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  const std::string image = sparse_file(small / "disk.raw", kDiskBytes);
  QemuProcess vm(dir, {.boot = "writer.bin",
                       .args = {"-blockdev", "driver=file,node-name=disk0,filename=" + image, "-device",
                                "virtio-blk-pci,drive=disk0,werror=report"}});
  Watcher watch(dir, {&vm});
  vm.cont();
  const auto error = vm.qmp().wait_event("BLOCK_IO_ERROR");
  ASSERT_TRUE(error);
  EXPECT_EQ(error->at("data").at("action").as_string(), "report");
  EXPECT_EQ(vm.run_state(), "running");
  EXPECT_TRUE(none_of_kind(watch.finish(), "pause"));
}

}  // namespace
}  // namespace vmwhy::test
