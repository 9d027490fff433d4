// SPDX-License-Identifier: BSD-2-Clause
#include "io_names.hpp"

#include <cstring>
#include <iterator>

namespace vmwhy::test {

int errno_number(const std::string& name) {
  for (int error = 1; error < 134; ++error) {
    const char* known = strerrorname_np(error);
    if (known != nullptr && name == known) return error;
  }
  return 0;
}

std::uint32_t io_operation(const std::string& name) {
  static constexpr const char* kNames[] = {"none", "read", "write", "flush", "allocate", "discard", "zeroes"};
  for (std::uint32_t n = 0; n < std::size(kNames); ++n)
    if (name == kNames[n]) return n;
  return 7;
}

}  // namespace vmwhy::test
