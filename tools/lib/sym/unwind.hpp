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

/// Code of a process: an executable or a library, and where it lies: a runtime address is the file's and the
/// bias.
struct Module {
  const Executable* executable = nullptr;
  std::uint64_t bias = 0;
};
struct Frame {
  const Executable* executable = nullptr;
  std::uint64_t address = 0;  ///< In the file: of the first where it was, of the others where they go on.
};

/// @return the first frame, then each caller, up to the first that is in none of the modules, the end of the
/// stack that was kept, or `limit`. Empty where not even the first is in one.
std::vector<Frame> unwind(std::span<const Module> modules, const Snapshot& snapshot, std::size_t limit = 24);

/// The same in one executable, as addresses in the file. At least the first.
std::vector<std::uint64_t> unwind(const Executable& executable, std::uint64_t bias, const Snapshot& snapshot,
                                  std::size_t limit = 24);

}  // namespace vmwhy::sym
