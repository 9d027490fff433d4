// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Makes executables of another kind of one that is there: one that was stripped of names, which strip does
// not do where modules need them; one that has static probes.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace vmwhy::test {

/// Takes the names of functions out of .dynsym for which `wanted` is true. Returns how many had one.
/// @throws std::runtime_error: it is no ELF file of 64 bits.
std::size_t take_names(const std::string& path, const std::function<bool(std::string_view)>& wanted);

/// Adds a note that says there is a static probe of QEMU's at that address.
/// @param arguments  As the assembler writes them.
/// @throws std::runtime_error: it cannot be added.
void add_static_probe(const std::string& path, const std::string& name, std::uint64_t address,
                      const std::string& arguments);

}  // namespace vmwhy::test
