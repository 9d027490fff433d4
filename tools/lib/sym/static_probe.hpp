// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Static probes (USDT): places that whoever built an executable marked with a name, each a no-op in its code
// and a note in the file (.note.stapsdt), which says where the arguments are when it is passed. A stripped
// executable has them too.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vmwhy::sym {

struct Snapshot;

/// Where one argument is: a number, a register, or memory that a register points into.
struct ProbeArgument {
  enum class Where { unknown, constant, in_register, in_memory };
  Where where = Where::unknown;
  int bytes = 8;            ///< 1, 2, 4 or 8; negative: signed.
  unsigned reg = 0;         ///< As DWARF numbers them.
  std::int64_t number = 0;  ///< The constant, or what is added to the register.
};

/// Of the operands of a note, as the assembler writes them: "-4@%eax 8@-24(%rbp) 4@$3" on x86-64,
/// "-4@w0 8@[sp, 24] 4@3" on arm64. What is written in another way is `unknown`, in its place.
std::vector<ProbeArgument> parse_probe_arguments(std::string_view text);

/// Its value, widened to 64 bits with its sign. Nothing where it is unknown, or in memory that was not
/// kept, as below the stack pointer.
std::optional<std::uint64_t> value_of(const ProbeArgument& argument, const Snapshot& snapshot);

struct StaticProbe {
  std::string name;
  std::uint64_t address = 0;  ///< In the file, as symbols have it.
  std::vector<ProbeArgument> arguments;
};

}  // namespace vmwhy::sym
