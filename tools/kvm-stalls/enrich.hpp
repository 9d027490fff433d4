// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Adds to a stall what its numbers mean: the system call's name, the file under its descriptor, the kernel
// functions of its stack. Asks nothing that takes the process's locks. One thread.

#include <cstdint>
#include <optional>
#include <string>

#include "bpf/load/stalls.hpp"
#include "stalls/times.hpp"
#include "sym/kernel_symbols.hpp"

namespace vmwhy::kvm_stalls {

/// "pread64"; "syscall 999" for one that has no name here; "" for none.
std::string system_call_name(std::int32_t number);
/// Whether its first argument is a file descriptor.
bool takes_descriptor(std::int32_t number);

/// The thread of that process that the process itself, perhaps in a PID namespace of its own, numbers so; 0:
/// there is none.
std::uint32_t thread_numbered(std::uint32_t pid, std::uint32_t number);

class Enricher {
 public:
  /// Reads the kernel's symbols, which takes a tenth of a second or more. Until then its stacks have no
  /// names.
  void load();
  /// @param block  The sleep that the stall's stack belongs to.
  void enrich(stalls::Stall& stall, const stalls_block& block);
  /// Why kernel stacks have no names; empty: they have.
  const std::string& obstacle() const { return obstacle_; }

 private:
  std::optional<sym::KernelSymbols> symbols_;
  std::string obstacle_;
};

}  // namespace vmwhy::kvm_stalls
