// SPDX-License-Identifier: BSD-2-Clause
// False "No space left on device": the block device under QEMU's descriptor died or was replaced. The remedy
// is the opposite of a full file system's, so that the two must never be confused.

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/support/capability.hpp"
#include "tests/support/loop_device.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/qemu.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

constexpr std::uint64_t kDiskBytes = 64 << 20;

// The guest writes only after the death: what is in the page cache by then fails with EIO, see the next test.
TEST(StorageDeviceGone, DeviceOfCapacityZeroIsNotAFullFileSystem) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(loop);
  const TempDir dir;
  const LoopDevice loop(dir.sparse("backing", kDiskBytes));
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(loop.path(), "raw", "host_device")});
  Watcher watch(dir, {&vm});
  loop.shrink(0);
  vm.cont();
  const auto error = vm.qmp().wait_event("BLOCK_IO_ERROR");
  ASSERT_TRUE(error);
  EXPECT_TRUE(error->at("data").at("nospace").as_bool()) << "QEMU does not take it for ENOSPC here";
  ASSERT_TRUE(vm.wait_run_state("io-error"));

  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-device-gone", "proven"));
  EXPECT_NE(text_of(incident, "summary").find(loop.path()), std::string::npos)
      << text_of(incident, "summary");
  EXPECT_TRUE(has_evidence(incident, "qmp", "No space left on device"));
  EXPECT_TRUE(has_evidence(incident, "proc", "size 0 bytes"));
  EXPECT_TRUE(rules_out(incident, "storage-full"));
  EXPECT_TRUE(has_remedy(incident, "do not look for space to free"));
  watch.finish();
}

TEST(StorageDeviceGone, DeathUnderWritesThatThePageCacheHoldsIsNoBadDisk) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(loop);
  const TempDir dir;
  const LoopDevice loop(dir.sparse("backing", kDiskBytes));
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(loop.path(), "raw", "host_device")});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(wait_until([&] { return vm.serial().find('.') != std::string::npos; }));
  loop.shrink(0);
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-device-gone", "proven"));
  EXPECT_TRUE(has_evidence(incident, "proc", "size 0 bytes"));
  watch.finish();
}

// As after a new login to a storage target: the name leads to a new device, QEMU still holds the old one.
TEST(StorageDeviceGone, ReplacedDeviceIsNamedWithBothIdentities) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(loop);
  const TempDir dir;
  const LoopDevice old_loop(dir.sparse("old", kDiskBytes)), new_loop(dir.sparse("new", kDiskBytes));
  const std::string name = dir / "by-id";
  ASSERT_EQ(::symlink(old_loop.path().c_str(), name.c_str()), 0);
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(name, "raw", "host_device")});
  Watcher watch(dir, {&vm});
  ASSERT_EQ(::unlink(name.c_str()), 0);
  ASSERT_EQ(::symlink(new_loop.path().c_str(), name.c_str()), 0);
  old_loop.shrink(0);
  vm.cont();
  ASSERT_TRUE(vm.qmp().wait_event("BLOCK_IO_ERROR"));
  ASSERT_TRUE(vm.wait_run_state("io-error"));

  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-device-gone", "proven"));
  EXPECT_TRUE(has_evidence(incident, "proc", "the path names"));
  EXPECT_TRUE(rules_out(incident, "storage-full"));
  watch.finish();
}

// The device lives, the file system below it is full: neither "device gone" nor a full file system of the
// device node (/dev is no place where the guest's data lies).
TEST(StorageDeviceGone, LiveDeviceOnAFullFileSystemIsNotGone) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(loop);
  VMWHY_NEEDS(mount);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  const LoopDevice loop(sparse_file(small / "backing", kDiskBytes));
  QemuProcess vm(dir,
                 {.boot = "writer.bin", .args = disk(loop.path(), "raw", "host_device", "cache.direct=on")});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(vm.qmp().wait_event("BLOCK_IO_ERROR"));
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto incident = watch.incident("pause");
  EXPECT_NE(text_of(incident, "cause"), "storage-device-gone");
  EXPECT_TRUE(rules_out(incident, "storage-device-gone"));
  EXPECT_FALSE(text_of(incident, "cause") == "storage-full" && text_of(incident, "confidence") == "proven");
  watch.finish();
}

// All that an engineer has is the trace that came with a bug report: does the text alone carry what is
// needed?
TEST(BugReport, TraceOfADeadDeviceAloneTellsWhatToDo) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(loop);
  const TempDir dir, elsewhere;
  std::string device;
  {
    const LoopDevice loop(dir.sparse("backing", kDiskBytes));
    device = loop.path();
    QemuProcess vm(dir, {.name = "web1", .boot = "writer.bin", .args = disk(device, "raw", "host_device")});
    Watcher watch(dir, {&vm});
    loop.shrink(0);
    vm.cont();
    ASSERT_TRUE(vm.wait_run_state("io-error"));
    watch.incident("pause");
    watch.finish();
    std::filesystem::copy_file(watch.trace(), elsewhere / "bug.vmt");
  }
  const std::string text = vm_why_text(elsewhere / "bug.vmt");
  for (const std::string& wanted : {std::string("web1"), std::string("disk0"), device,
                                    std::string("size 0 bytes"), std::string("storage-device-gone"),
                                    std::string("No space left on device"), std::string("storage-full")})
    EXPECT_NE(text.find(wanted), std::string::npos) << wanted << " is not in:\n" << text;
}

}  // namespace
}  // namespace vmwhy::test
