// SPDX-License-Identifier: BSD-2-Clause
// Guests whose storage is slow, recorded by vm-iowatch and judged by vm-why: QEMU's own throttle, an NBD
// server.

#include <gtest/gtest.h>

#include "tests/support/capability.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/storage_server.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

constexpr std::uint64_t kDiskBytes = 64 << 20;

/// What vm-why says of a trace that vm-iowatch took of the VM for some seconds: one incident.
IncidentJson judged(const TempDir& dir, QemuProcess& vm, const std::vector<std::string>& more = {}) {
  const std::string trace = dir / "io.vmt";
  std::vector<std::string> args{
      binary("vm-iowatch"), "-s", vm.monitor(), "-i", "500ms", "-d", "6s", "-o", trace};
  args.insert(args.end(), more.begin(), more.end());
  const Output run = run_program(args);
  EXPECT_EQ(run.status.code, 0) << run.err;
  const std::vector<IncidentJson> incidents = vm_why({trace});
  EXPECT_EQ(incidents.size(), 1u) << run.out << run.err << vm_why_text(trace);
  return incidents.size() == 1 ? incidents.front() : IncidentJson();
}

/// Proven where no request of any disk below waited long meanwhile, which a busy machine's own disk may do.
void expect_stall_in_qemu(const IncidentJson& incident) {
  const std::string confidence = text_of(incident, "confidence");
  EXPECT_TRUE(is_verdict(incident, "qemu-io-stall", confidence == "likely" ? confidence : "proven"));
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
  expect_stall_in_qemu(incident);
  EXPECT_EQ(detail_of(incident, "limit"), "iops");
  EXPECT_EQ(detail_of(incident, "limit_value"), 2);
  EXPECT_EQ(detail_of(incident, "node"), "disk0");
  EXPECT_TRUE(rules_out(incident, "storage-slow"));
  EXPECT_TRUE(has_remedy(incident, "block_set_io_throttle"));
}

TEST(IoSlow, ThrottleFilterIsJudgedByTheLimitsOfItsGroup) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  VMWHY_NEEDS(bpf);
  const TempDir dir;
  const Mount memory("tmpfs", dir.path() / "memory", "tmpfs", "size=80m");
  const std::string image = sparse_file(memory / "disk.raw", kDiskBytes);
  QemuProcess vm(dir, {.boot = "writer.bin",
                       .args = {"-object", "throttle-group,id=slow0,x-iops-total=1000", "-blockdev",
                                "driver=file,node-name=file0,filename=" + image, "-blockdev",
                                "driver=throttle,node-name=thr0,throttle-group=slow0,file=file0", "-blockdev",
                                "driver=raw,node-name=disk0,file=thr0", "-device",
                                "virtio-blk-pci,drive=disk0,id=vd0"}});
  ASSERT_TRUE(writes(vm));
  vm.call("qom-set", {{"path", "/objects/slow0"},
                      {"property", "limits"},
                      {"value", boost::json::object{{"iops-total", 2}}}});
  const auto incident = judged(dir, vm, {"--syscall-probes"});
  expect_stall_in_qemu(incident);
  EXPECT_EQ(detail_of(incident, "limit"), "iops");
  EXPECT_EQ(detail_of(incident, "limit_value"), 2);
  EXPECT_EQ(detail_of(incident, "throttle_group"), "slow0");
  EXPECT_TRUE(has_remedy(incident, "/objects/slow0"));
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
