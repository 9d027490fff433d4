// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The thermal throttle counters of the host's CPUs (Intel's; /sys/devices/system/cpu/cpuN/thermal_throttle).
// Plain reads; a host without them gives nothing.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "trace/record.hpp"

namespace vmwhy::host {

class ThermalWatch {
 public:
  explicit ThermalWatch(std::string folder = "/sys/devices/system/cpu");

  /// Whether any CPU has such counters.
  bool available() const { return !last_.empty(); }
  /// Records of type cpu_throttle, one for each CPU whose counters grew since the last call (or the
  /// constructor).
  std::vector<trace::OwnedRecord> look(std::uint64_t now_ns);

 private:
  struct Counters {
    std::uint64_t core = 0, package = 0, core_ms = 0, package_ms = 0;
  };
  /// Nothing while the CPU is offline.
  std::optional<Counters> read(std::uint32_t cpu) const;

  std::string folder_;
  std::map<std::uint32_t, Counters> last_;
  std::uint64_t last_ns_ = 0;
};

}  // namespace vmwhy::host
