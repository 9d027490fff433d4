// SPDX-License-Identifier: BSD-2-Clause
// kvm-exits' names of devices, told by a real QEMU.

#include <gmock/gmock.h>

#include <boost/json.hpp>

#include "tests/support/capability.hpp"
#include "tests/support/qemu.hpp"
#include "tools/kvm-exits/device_query.hpp"

namespace vmwhy::test {
namespace {

using kvm_exits::DeviceMap;
using testing::HasSubstr;
using testing::StartsWith;

Result<DeviceMap> ask(const std::string& socket) {
  boost::asio::io_context io;
  std::optional<Result<DeviceMap>> answer;
  kvm_exits::DeviceQuery query(io, *qmp::Address::parse(socket),
                               [&](Result<DeviceMap> result) { answer.emplace(std::move(result)); });
  query.start();
  const TimePoint deadline = deadline_in();
  while (!answer && io.run_one_until(deadline) != 0) {
  }
  if (!answer) return Failure{{}, "no answer came", ""};
  return std::move(*answer);
}

// Begin of the first BAR in memory of the device `id`, as QEMU tells it; 0: not placed.
std::uint64_t memory_bar(QemuProcess& vm, std::string_view id) {
  const boost::json::object reply = vm.call("query-pci");
  for (const auto& bus : reply.at("return").as_array())
    for (const auto& device : bus.at("devices").as_array())
      if (device.at("qdev_id").as_string().c_str() == id)
        for (const auto& region : device.at("regions").as_array())
          if (region.at("type") == "memory" && region.at("address").to_number<std::int64_t>() > 0)
            return region.at("address").to_number<std::uint64_t>();
  return 0;
}

TEST(Devices, OfARealQemuAreNamedByPortAndAddress) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin",
                       .args = {"-blockdev", "null-co,node-name=d", "-device",
                                "virtio-blk-pci,drive=d,id=web-disk,romfile="}});
  vm.cont();
  // The firmware has placed the BARs before it boots anything.
  ASSERT_TRUE(wait_until([&] { return vm.serial().find('G') != std::string::npos; })) << vm.serial();
  const std::uint64_t bar = memory_bar(vm, "web-disk");
  ASSERT_NE(bar, 0u);
  const auto map = ask(vm.monitor());
  ASSERT_TRUE(map) << to_string(map.error());
  EXPECT_EQ(map->find(KVM_EXITS_KIND_PIO, 0x3f8), "serial");
  EXPECT_EQ(map->find(KVM_EXITS_KIND_PIO, 0x70), "rtc-index");
  EXPECT_EQ(map->find(KVM_EXITS_KIND_PIO, 0x1234), "") << "nothing is there";
  EXPECT_EQ(map->find(KVM_EXITS_KIND_MMIO, 0x1000), "") << "RAM";
  EXPECT_THAT(map->find(KVM_EXITS_KIND_MMIO, 0xfec00010), StartsWith("ioapic"));
  EXPECT_THAT(map->find(KVM_EXITS_KIND_MMIO, bar), HasSubstr(" of web-disk"));
  EXPECT_EQ(vm.run_state(), "running") << "asking changes nothing";
}

TEST(Devices, AreUnknownWhereTheMonitorIsHeld) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {});
  const QmpProbe holder(vm.monitor());
  const auto map = ask(vm.monitor());
  ASSERT_FALSE(map);
  EXPECT_THAT(to_string(map.error()), HasSubstr(vm.monitor()));
}

}  // namespace
}  // namespace vmwhy::test
