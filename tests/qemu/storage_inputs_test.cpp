// SPDX-License-Identifier: BSD-2-Clause
// Disks as they are found on hosts: behind overlays, binds and mount namespaces, under names that only JSON
// can tell, and unplugged while they are watched. Named, or passed over with a reason.

#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json/serialize.hpp>
#include <cerrno>
#include <filesystem>

#include "storage_run.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/mount.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

std::vector<std::string> iowatch(const QemuProcess& vm, const std::vector<std::string>& more) {
  std::vector<std::string> args{binary("vm-iowatch"), "-s", vm.monitor()};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

std::string map_of(const QemuProcess& vm) {
  const Output map = run_program(iowatch(vm, {"--map"}));
  EXPECT_EQ(map.status.code, 0) << map.err;
  return map.out;
}

/// The guest writes until its file system is full.
IncidentJson full(const TempDir& dir, QemuProcess& vm) {
  Watcher watch(dir, {&vm});
  vm.cont();
  EXPECT_TRUE(vm.wait_run_state("io-error"));
  auto incident = watch.incident("pause");
  watch.finish();
  return incident;
}

TEST(StorageInputs, OverlayThatIsFullIsNamedByItsOwnMount) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(overlay);
  const TempDir dir;
  const Mount upper("tmpfs", dir.path() / "upper", "tmpfs", "size=4m");
  std::filesystem::create_directories(dir.path() / "lower");
  sparse_file(dir / "lower/disk.raw", 1 << 20);
  const Overlay overlay(upper.path(), dir.path() / "lower", dir.path() / "merged");
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(sparse_file(overlay / "disk.raw", kDiskBytes))});
  EXPECT_NE(map_of(vm).find("overlay"), std::string::npos);
  const auto incident = full(dir, vm);
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  EXPECT_EQ(detail_of(incident, "mount"), boost::json::string(dir / "merged"));
}

TEST(StorageInputs, BindMountIsNotTakenForTheFileSystemOfItsFolder) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  std::filesystem::create_directories(small.path() / "vm");
  const Mount bound(small / "vm", dir.path() / "bound", "bind");
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(sparse_file(bound / "disk.raw", kDiskBytes))});
  EXPECT_NE(map_of(vm).find("bind mount of /vm"), std::string::npos) << map_of(vm);
  const auto incident = full(dir, vm);
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  EXPECT_EQ(detail_of(incident, "mount"), boost::json::string(dir / "bound"));
}

// A container's QEMU: the path names nothing, or something else, where the watcher is.
TEST(StorageInputs, FileThatOnlyQemusMountNamespaceHasIsSeenThroughItsDescriptor) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  const TempDir dir;
  const std::string folder = dir / "inside";
  std::filesystem::create_directories(folder);
  sparse_file(folder + "/disk.raw", 1 << 20);
  const std::string make = "mount -t tmpfs -o size=4m inside " + folder + " && truncate -s 64m " + folder +
                           "/disk.raw && exec \"$@\"";
  QemuProcess vm(dir, {.boot = "writer.bin",
                       .args = disk(folder + "/disk.raw"),
                       .by = {"unshare", "--mount", "--propagation", "private", "sh", "-c", make, "sh"}});
  EXPECT_NE(map_of(vm).find("in a mount namespace of its own"), std::string::npos) << map_of(vm);
  const auto incident = full(dir, vm);
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  EXPECT_EQ(detail_of(incident, "fs_type"), "tmpfs");
  EXPECT_EQ(detail_of(incident, "fs_size_bytes"), 4 << 20);
}

TEST(StorageInputs, FileThatOnlyJsonNamesIsFound) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  const std::string image = dir.sparse("disk.raw", kDiskBytes);
  QemuProcess vm(dir, {.boot = "writer.bin", .args = failing_disk(image, "write", EIO)});
  const auto nodes = boost::json::serialize(vm.call("query-named-block-nodes", {{"flat", true}}));
  ASSERT_NE(nodes.find("json:"), std::string::npos) << "this QEMU has another name for it";
  const std::string map = map_of(vm);
  EXPECT_NE(map.find(image), std::string::npos) << map;
  EXPECT_NE(map.find("debug0"), std::string::npos) << map;
  EXPECT_EQ(map.find("json:"), std::string::npos) << map;
}

TEST(StorageInputs, DiskThatIsUnpluggedWhileItIsWatchedIsForgotten) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  VMWHY_NEEDS(bpf);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  auto args = disk(sparse_file(small / "disk.raw", kDiskBytes));
  args.insert(args.end(), {"-device", "virtio-scsi-pci", "-blockdev",
                           "driver=file,node-name=second,filename=" + dir.sparse("second.raw", 1 << 20),
                           "-device", "scsi-hd,drive=second,id=vd1"});
  QemuProcess vm(dir, {.boot = "writer.bin", .args = args});
  ChildProcess child(iowatch(vm, {"--json", "--syscall-probes", "-i", "100ms"}));
  ASSERT_TRUE(child.wait_error_line("watching")) << child.err();
  vm.call("device_del", {{"id", "vd1"}});
  // The node can be deleted once the device is gone.
  ASSERT_TRUE(wait_until([&] {
    return vm.call("blockdev-del", {{"node-name", "second"}}).contains("return");
  }));
  vm.cont();
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  EXPECT_TRUE(child.wait_line("\"kind\":\"error\"")) << child.err();
  child.signal(SIGINT);
  const auto status = child.wait();
  EXPECT_TRUE(status && status->code == 0) << child.err();
  const std::string map = map_of(vm);
  EXPECT_EQ(map.find("second"), std::string::npos) << map;
}

}  // namespace
}  // namespace vmwhy::test
