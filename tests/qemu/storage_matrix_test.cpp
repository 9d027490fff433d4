// SPDX-License-Identifier: BSD-2-Clause
// Each storage cause made for real, across formats and ways of I/O: what the watcher calls it. At the end of
// the run the confusion matrix is printed, and the table of docs/storage.md.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <cerrno>
#include <filesystem>
#include <functional>
#include <iostream>

#include "storage_run.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/fuse_disk.hpp"
#include "tests/support/loop_device.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/storage_server.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

struct Made {
  std::string how;         ///< For the table.
  std::string cause;       ///< What it is.
  std::string confidence;  ///< What is claimed at most and at least; "": what it is differs from run to run.
  Way way;
  /// Makes it, and returns the incident.
  std::function<IncidentJson(const TempDir&, const Way&)> make;
  std::vector<std::string> needs;
};

IncidentJson pause_of(const TempDir& dir, const std::vector<std::string>& disk_arguments,
                      const std::function<void(QemuProcess&)>& before = {},
                      const std::function<void(QemuProcess&)>& while_it_writes = {}) {
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk_arguments});
  if (before) before(vm);
  Watcher watch(dir, {&vm}, {"--syscall-probes"});
  vm.cont();
  if (while_it_writes) {
    EXPECT_TRUE(writes(vm));
    while_it_writes(vm);
  }
  EXPECT_TRUE(vm.wait_run_state("io-error"));
  auto incident = watch.incident("pause");
  watch.finish();
  return incident;
}

IncidentJson full_tmpfs(const TempDir& dir, const Way& way) {
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  return pause_of(dir, disk(image_in(small / "disk", way), way.format, "file", way.options()));
}

IncidentJson full_ext4(const TempDir& dir, const Way& way) {
  const std::string file = dir.sparse("ext4", 24 << 20);
  EXPECT_EQ(run_program({"mkfs.ext4", "-q", "-F", file}).status.code, 0);
  const LoopDevice loop(file);
  const Mount ext4(loop.path(), dir.path() / "small", "ext4");
  return pause_of(dir, disk(image_in(ext4 / "disk", way), way.format, "file", way.options()));
}

IncidentJson full_xfs(const TempDir& dir, const Way& way) {
  const std::string file = dir.sparse("xfs", 320 << 20);  // mkfs.xfs makes none below 300 MiB.
  EXPECT_EQ(run_program({"mkfs.xfs", "-q", file}).status.code, 0);
  const LoopDevice loop(file);
  const Mount xfs(loop.path(), dir.path() / "small", "xfs");
  const std::string image = image_in(xfs / "disk", way);
  const std::string rest = std::to_string(free_bytes(xfs.path()) - (6 << 20));
  EXPECT_EQ(run_program({"fallocate", "-l", rest, xfs / "rest"}).status.code, 0);
  return pause_of(dir, disk(image, way.format, "file", way.options()));
}

IncidentJson full_below_loop(const TempDir& dir, const Way& way) {
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  const LoopDevice loop(sparse_file(small / "backing", kDiskBytes));
  return pause_of(dir, disk(loop.path(), "raw", "host_device", way.options()));
}

/// The device under QEMU becomes this small.
std::function<IncidentJson(const TempDir&, const Way&)> loop_shrinks_to(std::uint64_t bytes) {
  return [bytes](const TempDir& dir, const Way& way) {
    const LoopDevice loop(dir.sparse("backing", kDiskBytes));
    return pause_of(dir, disk(loop.path(), "raw", "host_device", way.options()), {},
                    [&](QemuProcess&) { loop.shrink(bytes); });
  };
}

std::function<IncidentJson(const TempDir&, const Way&)> fuse_write_fails(int error) {
  return [error](const TempDir& dir, const Way& way) {
    FuseDisk fuse(dir.path() / "fuse");
    return pause_of(dir, disk(fuse.file(), "raw", "file", "locking=off," + way.options()), {},
                    [&](QemuProcess&) { fuse.fail_writes(error); });
  };
}

IncidentJson fuse_writes_half(const TempDir& dir, const Way& way) {
  FuseDisk fuse(dir.path() / "fuse");
  return pause_of(dir, disk(fuse.file(), "raw", "file", "locking=off," + way.options()), {},
                  [&](QemuProcess&) { fuse.short_writes(); });
}

/// The guest writes zeros, which QEMU turns into holes.
IncidentJson hole_is_refused(const TempDir& dir, const Way& way) {
  FuseDisk fuse(dir.path() / "fuse");
  fuse.fail_allocation(EIO);
  const std::vector<std::string> arguments{
      "-blockdev",
      "driver=file,node-name=file0,discard=unmap,locking=off,filename=" + fuse.file() + "," + way.options(),
      "-blockdev",
      "driver=raw,node-name=disk0,file=file0,discard=unmap,detect-zeroes=unmap",
      "-device",
      "virtio-blk-pci,drive=disk0,id=vd0,werror=stop,rerror=stop"};
  return pause_of(dir, arguments);
}

IncidentJson injected(const TempDir& dir, const Way&) {
  return pause_of(dir, failing_disk(dir.sparse("disk.raw", kDiskBytes), "write", EIO));
}

IncidentJson file_size_limit(const TempDir& dir, const Way& way) {
  // Without it the limit's signal ends QEMU.
  const auto old = ::signal(SIGXFSZ, SIG_IGN);
  auto incident = pause_of(dir, disk(dir.sparse("disk.raw", kDiskBytes), "raw", "file", way.options()),
                           [](QemuProcess& vm) {
                             const rlimit limit{4 << 20, RLIM_INFINITY};
                             EXPECT_EQ(::prlimit(vm.pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
                           });
  ::signal(SIGXFSZ, old);
  return incident;
}

IncidentJson server_killed(const TempDir& dir, const Way&) {
  NbdServer server(dir);
  return pause_of(dir, nbd_disk(server.socket()), {},
                  [&](QemuProcess&) { server.process().signal(SIGKILL); });
}

/// The server answers each write with this error, from some moment on.
std::function<IncidentJson(const TempDir&, const Way&)> server_answers(const char* error) {
  return [error](const TempDir& dir, const Way&) {
    const std::string trigger = dir / "trigger";
    NbdServer server(dir, {"error"},
                     {"error-pwrite=" + std::string(error), "error-rate=100%", "error-file=" + trigger});
    return pause_of(dir, nbd_disk(server.socket()), {}, [&](QemuProcess&) { dir.write("trigger", ""); });
  };
}

IncidentJson target_is_full(const TempDir& dir, const Way&) {
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  const IscsiTarget target(dir, sparse_file(small / "disk", kDiskBytes));
  return pause_of(dir, iscsi_disk(target));
}

IncidentJson target_refuses(const TempDir& dir, const Way&) {
  const IscsiTarget target(dir, dir.sparse("disk", kDiskBytes));
  return pause_of(dir, iscsi_disk(target), {}, [&](QemuProcess&) { target.make_read_only(); });
}

IncidentJson fuse_hangs(const TempDir& dir, const Way& way) {
  FuseDisk fuse(dir.path() / "fuse");
  QemuProcess vm(
      dir, {.boot = "writer.bin", .args = disk(fuse.file(), "raw", "file", "locking=off," + way.options())});
  Watcher watch(dir, {&vm}, {"--syscall-probes"});
  vm.cont();
  EXPECT_TRUE(writes(vm));
  fuse.hang_data();
  const auto stall = watch.incident("stall");
  EXPECT_EQ(text_of(stall, "cause"), "storage-hang");
  // Which call hangs is known once it has for five seconds.
  EXPECT_TRUE(wait_until([&] {
    return run_program({binary("vm-trace"), "cat", watch.trace()}).out.find("what=under") !=
           std::string::npos;
  }));
  fuse.let_go();
  auto ended = watch.ended("stall");
  watch.finish();
  return ended;
}

const std::vector<Made>& all_made() {
  static const std::vector<Made> kMade{
      {"full tmpfs", "storage-full", "proven", {}, full_tmpfs, {"mount"}},
      {"full tmpfs",
       "storage-full",
       "proven",
       {"qcow2", "threads", false},
       full_tmpfs,
       {"mount", "qemu_img"}},
      {"full ext4 on a loop device", "storage-full", "proven", {"raw", "native", true}, full_ext4, {"ext4"}},
      {"full ext4 on a loop device",
       "storage-full",
       "proven",
       {"raw", "io_uring", false},
       full_ext4,
       {"ext4", "io_uring"}},
      {"full XFS on a loop device", "storage-full", "", {"raw", "threads", false}, full_xfs, {"xfs"}},
      {"full XFS on a loop device",
       "storage-full",
       "",
       {"qcow2", "native", true},
       full_xfs,
       {"xfs", "qemu_img"}},
      {"full file system under a loop device",
       "storage-thin-full",
       "proven",
       {"raw", "threads", true},
       full_below_loop,
       {"mount", "loop"}},
      {"full file system under a loop device",
       "storage-thin-full",
       "proven",
       {"raw", "native", true},
       full_below_loop,
       {"mount", "loop"}},
      {"loop device of capacity 0", "storage-device-gone", "proven", {}, loop_shrinks_to(0), {"loop"}},
      {"loop device of capacity 0",
       "storage-device-gone",
       "proven",
       {"raw", "native", true},
       loop_shrinks_to(0),
       {"loop"}},
      {"loop device that becomes smaller",
       "storage-beyond-end",
       "proven",
       {},
       loop_shrinks_to(2 << 20),
       {"loop"}},
      {"FUSE write answered with EDQUOT", "storage-quota", "proven", {}, fuse_write_fails(EDQUOT), {"fuse"}},
      {"FUSE write done by half",
       "storage-short-write",
       "likely",
       {"raw", "native", true},
       fuse_writes_half,
       {"fuse"}},
      {"FUSE fallocate answered with EIO", "storage-discard-failed", "proven", {}, hole_is_refused, {"fuse"}},
      {"FUSE write answered with EIO", "storage-io-error", "proven", {}, fuse_write_fails(EIO), {"fuse"}},
      {"error injected by blkdebug", "storage-io-error", "likely", {}, injected, {}},
      {"RLIMIT_FSIZE", "storage-io-error", "proven", {}, file_size_limit, {}},
      {"FUSE write answered with EUCLEAN",
       "storage-fs-corruption",
       "proven",
       {},
       fuse_write_fails(EUCLEAN),
       {"fuse"}},
      {"FUSE write answered with EACCES",
       "storage-permission",
       "proven",
       {},
       fuse_write_fails(EACCES),
       {"fuse"}},
      {"NBD write answered with ENOSPC", "storage-full", "likely", {}, server_answers("ENOSPC"), {"nbdkit"}},
      {"NBD write answered with EIO", "storage-network", "likely", {}, server_answers("EIO"), {"nbdkit"}},
      {"NBD server killed", "storage-network", "proven", {}, server_killed, {"nbdkit", "sock_diag"}},
      {"iSCSI target whose file system is full",
       "storage-network",
       "likely",
       {},
       target_is_full,
       {"iscsi", "mount", "sock_diag"}},
      {"iSCSI disk made read-only",
       "storage-permission",
       "likely",
       {},
       target_refuses,
       {"iscsi", "sock_diag"}},
      {"FUSE server that does not answer", "storage-hang", "proven", {}, fuse_hangs, {"fuse"}},
  };
  return kMade;
}

class StorageMatrix : public ::testing::TestWithParam<std::size_t> {
 protected:
  static void TearDownTestSuite() {
    matrix_.print();
    for (const std::string& row : rows_) std::cout << row << "\n";
  }
  static inline ConfusionMatrix matrix_;
  static inline std::vector<std::string> rows_;
};

TEST_P(StorageMatrix, IsCalledWhatItIs) {
  const Made& made = all_made()[GetParam()];
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(bpf);
  for (const std::string& name : made.needs) {
    const std::string& missing = capability_missing(name);
    if (!missing.empty()) GTEST_SKIP() << "needs " << name << ": " << missing;
  }
  const TempDir dir;
  const IncidentJson incident = made.make(dir, made.way);
  const std::string cause = text_of(incident, "cause"), confidence = text_of(incident, "confidence");
  matrix_.count(made.cause, cause);
  rows_.push_back("| " + made.how + " | " + made.way.format + ", " + made.way.aio +
                  (made.way.direct ? ", direct" : "") + " | `" + cause + "` | " + confidence + " |");
  const std::string& expected = made.confidence.empty() ? confidence : made.confidence;
  EXPECT_TRUE(is_verdict(incident, made.cause, expected)) << made.how;
}

INSTANTIATE_TEST_SUITE_P(Real, StorageMatrix, ::testing::Range<std::size_t>(0, all_made().size()),
                         [](const auto& info) {
                           std::string name = std::to_string(info.param) + "_" + all_made()[info.param].cause;
                           for (char& c : name)
                             if (c == '-') c = '_';
                           return name;
                         });

}  // namespace
}  // namespace vmwhy::test
