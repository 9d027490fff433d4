// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Names of errors and of storage operations, as trace scripts write them.

#include <cstdint>
#include <string>

namespace vmwhy::test {

/// "ENOSPC" → 28; 0 for a name that is none.
int errno_number(const std::string& name);
/// "read", "write", "flush", "allocate", "discard", "zeroes" → trace::IoOperation.
std::uint32_t io_operation(const std::string& name);

}  // namespace vmwhy::test
