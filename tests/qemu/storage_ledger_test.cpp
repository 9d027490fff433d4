// SPDX-License-Identifier: BSD-2-Clause
// Storage errors with the kernel's own answer in evidence: from QEMU's event down to the system call.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <boost/json/serialize.hpp>

#include <filesystem>

#include "tests/support/capability.hpp"
#include "tests/support/loop_device.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/qemu.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

constexpr std::uint64_t kDiskBytes = 64 << 20;

TEST(StorageLedger, FullTmpfsIsProvenByTheFailedCall) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  VMWHY_NEEDS(bpf);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(sparse_file(small / "disk.raw", kDiskBytes))});
  Watcher watch(dir, {&vm}, {"--syscall-probes"});
  vm.cont();
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  EXPECT_TRUE(has_evidence(incident, "syscall", "failed with ENOSPC"));
  EXPECT_TRUE(has_evidence(incident, "syscall", small / "disk.raw"));
  EXPECT_EQ(detail_of(incident, "errno"), "ENOSPC");
  EXPECT_TRUE(detail_of(incident, "thread").is_number());
  watch.finish();
}

TEST(StorageLedger, DeadDeviceIsProvenByTheFailedCall) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(loop);
  VMWHY_NEEDS(bpf);
  const TempDir dir;
  const LoopDevice loop(dir.sparse("backing", kDiskBytes));
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(loop.path(), "raw", "host_device")});
  Watcher watch(dir, {&vm}, {"--syscall-probes"});
  loop.shrink(0);
  vm.cont();
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-device-gone", "proven"));
  EXPECT_TRUE(has_evidence(incident, "syscall", loop.path()));
  EXPECT_TRUE(rules_out(incident, "storage-full"));
  watch.finish();
}

TEST(StorageLedger, FileSizeLimitIsNamed) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(bpf);
  const TempDir dir;
  // Without it the limit's signal ends QEMU.
  const auto before = ::signal(SIGXFSZ, SIG_IGN);
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(dir.sparse("disk.raw", kDiskBytes))});
  ::signal(SIGXFSZ, before);
  const rlimit limit{4 << 20, RLIM_INFINITY};
  ASSERT_EQ(::prlimit(vm.pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
  Watcher watch(dir, {&vm}, {"--syscall-probes"});
  vm.cont();
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-io-error", "proven"));
  EXPECT_EQ(detail_of(incident, "errno"), "EFBIG");
  EXPECT_TRUE(has_remedy(incident, "prlimit"));
  watch.finish();
}

TEST(StorageLedger, FailedIoUringRequestIsSeen) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  VMWHY_NEEDS(bpf);
  VMWHY_NEEDS(io_uring);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  const std::string image = sparse_file(small / "disk.raw", kDiskBytes);
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(image, "raw", "file", "aio=io_uring")});
  Watcher watch(dir, {&vm}, {"--syscall-probes"});
  vm.cont();
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  EXPECT_TRUE(has_evidence(incident, "syscall", "io_uring"));
  watch.finish();
}

TEST(StorageLedger, SystemCallsThatAreNotFollowedAreSaidToBeSo) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  VMWHY_NEEDS(bpf);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(sparse_file(small / "disk.raw", kDiskBytes))});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  // Either they are followed at no cost to others, or it is said how to have them followed.
  if (!has_evidence(incident, "syscall", "failed with ENOSPC")) {
    const std::string missing = boost::json::serialize(incident.at("missing"));
    EXPECT_NE(missing.find("--syscall-probes"), std::string::npos) << missing;
  }
  watch.finish();
}

TEST(StorageLedger, WithoutProbesTheVerdictStandsAndSaysWhatIsMissing) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(sparse_file(small / "disk.raw", kDiskBytes))});
  Watcher watch(dir, {&vm}, {"--no-bpf"});
  vm.cont();
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  EXPECT_FALSE(has_evidence(incident, "syscall", ""));
  const std::string missing = boost::json::serialize(incident.at("missing"));
  EXPECT_NE(missing.find("kernel probes are switched off"), std::string::npos) << missing;
  watch.finish();
}

}  // namespace
}  // namespace vmwhy::test
