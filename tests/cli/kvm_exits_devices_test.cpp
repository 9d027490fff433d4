// SPDX-License-Identifier: BSD-2-Clause
#include <gmock/gmock.h>

#include <boost/json.hpp>
#include <sstream>

#include "tools/kvm-exits/devices.hpp"
#include "tools/kvm-exits/output.hpp"

namespace vmwhy::kvm_exits {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// As QEMU 7.2 prints it, shortened.
constexpr const char* kMtree =
    "FlatView #0\r\n"
    " AS \"I/O\", root: io\r\n"
    " Root memory region: io\r\n"
    "  0000000000000062-0000000000000063 (prio 0, i/o): io @0000000000000062\r\n"
    "  0000000000000071-0000000000000071 (prio 0, i/o): rtc @0000000000000001\r\n"
    "  00000000000003f8-00000000000003ff (prio 0, i/o): serial\r\n"
    "  000000000000c000-000000000000c07f (prio 1, i/o): virtio-pci\r\n"
    "\r\n"
    "FlatView #1\r\n"
    " AS \"cpu-smm-0\", root: memory\r\n"
    " Root memory region: memory\r\n"
    "  00000000000a0000-00000000000bffff (prio 1, i/o): smm-only\r\n"
    "\r\n"
    "FlatView #2\r\n"
    " AS \"memory\", root: system\r\n"
    " AS \"cpu-memory-0\", root: system\r\n"
    " Root memory region: system\r\n"
    "  0000000000000000-000000000009ffff (prio 0, ram): pc.ram\r\n"
    "  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem\r\n"
    "  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic KVM\r\n"
    "  00000000febd7000-00000000febd7fff (prio 0, i/o): virtio-pci-notify-virtio-blk\r\n"
    "  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios\r\n";

const boost::json::value kPci = boost::json::parse(R"([{"bus": 0, "devices": [
  {"bus": 0, "slot": 3, "function": 0, "qdev_id": "disk0", "regions": [
    {"bar": 0, "type": "io", "address": 49152, "size": 128},
    {"bar": 4, "type": "memory", "address": 4273815552, "size": 16384},
    {"bar": 5, "type": "memory", "address": -1, "size": 4096}]},
  {"bus": 0, "slot": 4, "function": 1, "qdev_id": "", "regions": [], "pci_bridge": {"devices": [
    {"bus": 1, "slot": 2, "function": 1, "qdev_id": "",
     "regions": [{"bar": 0, "type": "memory", "address": 655360, "size": 16}]}]}}]}])");

TEST(KvmExitsDevices, AreReadFromTheViewsOfPortsAndMemory) {
  const DeviceMap map = DeviceMap::parse(kMtree);
  EXPECT_EQ(map.find(KVM_EXITS_KIND_PIO, 0x3f8), "serial");
  EXPECT_EQ(map.find(KVM_EXITS_KIND_PIO, 0x3ff), "serial");
  EXPECT_EQ(map.find(KVM_EXITS_KIND_PIO, 0x400), "");
  EXPECT_EQ(map.find(KVM_EXITS_KIND_PIO, 0x62), "") << "the container of all ports is no device";
  EXPECT_EQ(map.find(KVM_EXITS_KIND_PIO, 0x71), "rtc");
  EXPECT_EQ(map.find(KVM_EXITS_KIND_MMIO, 0xa0010), "vga-lowmem") << "not what SMM sees";
  EXPECT_EQ(map.find(KVM_EXITS_KIND_MMIO, 0x1000), "") << "RAM";
  EXPECT_EQ(map.find(KVM_EXITS_KIND_MMIO, 0x3f8), "") << "a port is no address";
  EXPECT_EQ(map.find(KVM_EXITS_KIND_KVM, 0x3f8), "");
}

TEST(KvmExitsDevices, ArePutToThePciDeviceTheyBelongTo) {
  DeviceMap map = DeviceMap::parse(kMtree);
  map.add_pci(kPci);
  EXPECT_EQ(map.find(KVM_EXITS_KIND_MMIO, 0xfebd7000), "virtio-pci-notify-virtio-blk of disk0");
  EXPECT_EQ(map.find(KVM_EXITS_KIND_PIO, 0xc010), "virtio-pci of disk0");
  EXPECT_EQ(map.find(KVM_EXITS_KIND_MMIO, 0xfebd4000), "disk0") << "no region is known there";
  EXPECT_EQ(map.find(KVM_EXITS_KIND_MMIO, 0xa0000), "vga-lowmem of PCI 01:02.1") << "below a bridge";
  EXPECT_EQ(map.find(KVM_EXITS_KIND_MMIO, 0xffffffffffffffff), "") << "a BAR that is not placed";
}

TEST(KvmExitsDevices, SurviveNonsense) {
  for (const char* text : {"", "\n", "FlatView #0\n AS \"I/O\"\n", "AS \"I/O\"\n 12", "AS \"I/O\"\n12-",
                           "AS \"I/O\"\n1-2 (prio 0, i/o", "AS \"I/O\"\n1-2 (prio 0): x",
                           "AS \"I/O\"\nfffffffffffffffff-2 (prio 0, i/o): x"})
    EXPECT_EQ(DeviceMap::parse(text).size(), 0u) << text;
  std::string many = "AS \"memory\"\n";
  for (int i = 0; i < 10'000; ++i) many += "1-2 (prio 0, i/o): x\n";
  DeviceMap map = DeviceMap::parse(many);
  EXPECT_EQ(map.size(), DeviceMap::kMost);
  for (const char* text :
       {"1", "{}", "[]", "[1]", "[{}]", R"([{"devices": 1}])", R"([{"devices": [1, {}, {"regions": 1}]}])",
        R"([{"devices": [{"regions": [1, {}, {"address": "x", "size": -1}]}]}])",
        R"([{"devices": [{"regions": [{"type": "memory", "address": 18446744073709551615, "size": 2}]}]}])"})
    map.add_pci(boost::json::parse(text));
  EXPECT_EQ(map.find(KVM_EXITS_KIND_MMIO, 1), "x");
}

TEST(KvmExitsDevices, AreShownInTableJsonAndCsv) {
  auto devices = std::make_shared<DeviceMap>(DeviceMap::parse(kMtree));
  devices->add_pci(kPci);
  kvm_exits_vcpu row{};
  row.pid_tgid = std::uint64_t{42} << 32 | 43;
  row.cells_used = 3;
  row.cells[0] = {.code = 0xfebd7000, .kind = KVM_EXITS_KIND_MMIO, .detail = 1, .count = 7};
  row.cells[1] = {.code = 0x3f8, .kind = KVM_EXITS_KIND_PIO, .detail = 1, .count = 5};
  row.cells[2] = {.code = 0x80, .kind = KVM_EXITS_KIND_PIO, .detail = 1, .count = 3};
  Report report;
  report.vms = make_vms({row}, {}, {{42, {"web1", {}, devices}}}, kvm::Isa::vmx, {});
  std::ostringstream table, csv;
  print_table(table, report, Key::count, false);
  EXPECT_THAT(table.str(), AllOf(HasSubstr("0x3f8 write [serial] "), HasSubstr("0x80 write (POST code)"),
                                 HasSubstr("\n      [virtio-pci-notify-virtio-blk of disk0]\n")));
  std::istringstream lines(table.str());
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
  print_csv(csv, report, 0);
  EXPECT_THAT(csv.str(), HasSubstr(",0,serial\n"));
  const auto exits = to_json(report).at("vms").at(0).at("vcpus").at(0).at("exits").as_array();
  EXPECT_EQ(exits.at(0).at("device"), "serial");
  EXPECT_EQ(exits.at(0).at("device_from"), "qemu");
  EXPECT_EQ(exits.at(1).at("device"), "POST code");
  EXPECT_EQ(exits.at(1).at("device_from"), "convention");
  EXPECT_EQ(exits.at(2).at("device"), "virtio-pci-notify-virtio-blk of disk0");
}

}  // namespace
}  // namespace vmwhy::kvm_exits
