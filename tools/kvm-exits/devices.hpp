// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Which device answers at a port or guest physical address: read from QEMU's own tables. Pure: no I/O.

#include <boost/json/value.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bpf/load/kvm_exits.hpp"

namespace vmwhy::kvm_exits {

/// Devices of one VM. QEMU is not trusted: whatever the texts hold, at most kMost ranges are kept.
class DeviceMap {
 public:
  static constexpr std::size_t kMost = 4096;

  /// From the text of "info mtree -f": the flat views of the address spaces "I/O" and "memory", RAM and
  /// ROM left out. Text that looks different makes no ranges.
  static DeviceMap parse(std::string_view mtree);
  /// Adds whose registers they are, from the value of query-pci: the device's id, or its bus address.
  void add_pci(const boost::json::value& query_pci);

  /// "serial", "virtio-pci-notify-virtio-blk of disk0"; empty: nothing known is there.
  /// @param kind  pio or mmio.
  std::string find(kvm_exits_kind kind, std::uint64_t address) const;
  std::size_t size() const { return ranges_.size(); }

 private:
  struct Range {
    bool port;
    std::uint64_t first, last;
    std::string name;
  };
  static const Range* find(const std::vector<Range>& ranges, bool port, std::uint64_t address);
  void add_pci_devices(const boost::json::value& devices, int depth);
  void add_pci_regions(const boost::json::object& device, const std::string& owner);

  std::vector<Range> ranges_;  ///< The memory regions.
  std::vector<Range> owners_;  ///< What the PCI devices' BARs cover.
};

}  // namespace vmwhy::kvm_exits
