// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Makes an executable one that was stripped of names, which strip does not do where modules need them.

#include <functional>
#include <string>
#include <string_view>

namespace vmwhy::test {

/// Takes the names of functions out of .dynsym for which `wanted` is true. Returns how many had one.
/// @throws std::runtime_error: it is no ELF file of 64 bits.
std::size_t take_names(const std::string& path, const std::function<bool(std::string_view)>& wanted);

}  // namespace vmwhy::test
