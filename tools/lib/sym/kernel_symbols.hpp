// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Names of the running kernel's functions by address, from /proc/kallsyms: symbols of vmlinux, modules and
// BPF programs. Read once; 20 bytes a symbol and its name are kept. Any thread after load().

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/failure.hpp"

namespace vmwhy::sym {

class KernelSymbols {
 public:
  /// Errors: errno of the file; EPERM where the kernel hides addresses (kernel.kptr_restrict), with the
  /// remedy.
  static Result<KernelSymbols> load(const std::string& path = "/proc/kallsyms");
  /// The text of such a file. Lines that are none are left out.
  static KernelSymbols parse(std::string_view text);

  /// "folio_wait_bit_common+0x13d"; "0xffff…" for an address below the first symbol.
  std::string name(std::uint64_t address) const;
  /// Without the offset; empty for an address below the first symbol.
  std::string_view function(std::uint64_t address) const;
  std::size_t size() const { return symbols_.size(); }

 private:
  struct Symbol {
    std::uint64_t address;
    std::uint32_t at, length;  ///< In names_.
  };
  const Symbol* find(std::uint64_t address) const;

  std::vector<Symbol> symbols_;
  std::string names_;
};

/// The frames that matter of a stack taken when a thread gave up its CPU: those below the scheduler's.
std::vector<std::string> below_schedule(const KernelSymbols& symbols,
                                        const std::vector<std::uint64_t>& stack);

}  // namespace vmwhy::sym
