// SPDX-License-Identifier: BSD-2-Clause
// Guests whose storage is slow, recorded by vm-iowatch and judged by vm-why: QEMU's own throttle, an NBD
// server.

#include <gtest/gtest.h>

#include "tests/support/capability.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/qemu.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

constexpr std::uint64_t kDiskBytes = 64 << 20;

/// What vm-why says of a trace that vm-iowatch took of the VM for some seconds; nothing if it is not one
/// incident.
IncidentJson judged(const TempDir& dir, QemuProcess& vm, const std::vector<std::string>& more = {}) {
  const std::string trace = dir / "io.vmt";
  std::vector<std::string> args{
      binary("vm-iowatch"), "-s", vm.monitor(), "-i", "500ms", "-d", "6s", "-o", trace};
  args.insert(args.end(), more.begin(), more.end());
  const Output run = run_program(args);
  EXPECT_EQ(run.status.code, 0) << run.err;
  const std::vector<IncidentJson> incidents = vm_why({trace});
  EXPECT_EQ(incidents.size(), 1u) << vm_why_text(trace);
  return incidents.size() == 1 ? incidents.front() : IncidentJson();
}

boost::json::object iops(std::int64_t limit) {
  boost::json::object out{{"id", "/machine/peripheral/vd0/virtio-backend"}, {"iops", limit}};
  for (const char* other : {"bps", "bps_rd", "bps_wr", "iops_rd", "iops_wr"}) out[other] = 0;
  return out;
}

bool writes(QemuProcess& vm) {
  vm.cont();
  return wait_until([&] { return vm.serial().find('.') != std::string::npos; });
}

TEST(IoSlow, ThrottleOfQemuIsNoSlowStorage) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  VMWHY_NEEDS(bpf);
  const TempDir dir;
  // In memory: what lies below is quick whatever the machine's disks do.
  const Mount memory("tmpfs", dir.path() / "memory", "tmpfs", "size=80m");
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(sparse_file(memory / "disk.raw", kDiskBytes))});
  ASSERT_TRUE(writes(vm));
  vm.call("block_set_io_throttle", iops(2));
  const auto incident = judged(dir, vm, {"--syscall-probes"});
  EXPECT_TRUE(is_verdict(incident, "qemu-io-stall", "proven"));
  EXPECT_EQ(detail_of(incident, "limit"), "iops");
  EXPECT_EQ(detail_of(incident, "limit_value"), 2);
  EXPECT_EQ(detail_of(incident, "node"), "disk0");
  EXPECT_TRUE(rules_out(incident, "storage-slow"));
  EXPECT_TRUE(has_remedy(incident, "block_set_io_throttle"));
}

TEST(IoSlow, ServerThatTakesItsTimeIsTheNetworks) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(nbdkit);
  const TempDir dir;
  NbdServer server(dir, {"delay"}, {"wdelay=300ms"});
  QemuProcess vm(dir, {.boot = "writer.bin", .args = nbd_disk(server.socket())});
  ASSERT_TRUE(writes(vm));
  const auto incident = judged(dir, vm);
  EXPECT_TRUE(is_verdict(incident, "storage-network", "likely"));
  EXPECT_EQ(detail_of(incident, "transport"), "nbd");
}

}  // namespace
}  // namespace vmwhy::test
