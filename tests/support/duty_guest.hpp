// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What the guest duty.bin tells of itself: how long it has spun and halted, by its time stamp counter.

#include <cstdint>
#include <string>
#include <vector>

namespace vmwhy::test {

struct DutyTimes {
  std::size_t cycles = 0;              ///< Of 100 ms, where it gets its CPU.
  std::uint32_t spun = 0, halted = 0;  ///< In 1024 ticks of the time stamp counter.

  /// Arguments of QEMU: the guest's words go to that file.
  static std::vector<std::string> device(const std::string& file);
  /// As of the last whole cycle.
  static DutyTimes read(const std::string& file);
  double halted_share_since(const DutyTimes& before) const;
};

}  // namespace vmwhy::test
