// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The callers of a function, from the registers and the piece of stack that were kept when it was entered, by
// the call frame information of the executable (.eh_frame, which stripped binaries have too). No process is
// looked at: it may be gone.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sym/executable.hpp"

namespace vmwhy::sym {

struct Snapshot {
  std::uint64_t pc = 0, sp = 0;
  std::span<const std::uint64_t> registers;  ///< As DWARF numbers them, without the pc.
  std::span<const std::byte> stack;          ///< From sp upwards.
};

/// @param bias  Of the executable in the process: a runtime address is the file's and this.
/// @return addresses in the file: the function's own, then where each caller goes on, up to the first frame
/// outside the executable, the end of the stack that was kept, or `limit`. At least the first.
std::vector<std::uint64_t> unwind(const Executable& executable, std::uint64_t bias, const Snapshot& snapshot,
                                  std::size_t limit = 24);

}  // namespace vmwhy::sym
