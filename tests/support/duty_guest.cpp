// SPDX-License-Identifier: BSD-2-Clause
#include "duty_guest.hpp"

#include <cstring>

#include "temp_dir.hpp"

namespace vmwhy::test {

std::vector<std::string> DutyTimes::device(const std::string& file) {
  return {"-chardev", "file,id=duty,path=" + file, "-device", "isa-debugcon,iobase=0xe9,chardev=duty"};
}

DutyTimes DutyTimes::read(const std::string& file) {
  constexpr std::size_t kCycle = 8;
  const std::string text = read_file(file);
  DutyTimes out;
  out.cycles = text.size() / kCycle;
  if (out.cycles == 0) return out;
  std::memcpy(&out.spun, text.data() + (out.cycles - 1) * kCycle, sizeof out.spun);
  std::memcpy(&out.halted, text.data() + (out.cycles - 1) * kCycle + sizeof out.spun, sizeof out.halted);
  return out;
}

double DutyTimes::halted_share_since(const DutyTimes& before) const {
  const double spinning = spun - before.spun, halting = halted - before.halted;  // They may have gone round.
  return halting / (spinning + halting);
}

}  // namespace vmwhy::test
