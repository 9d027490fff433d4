// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Breaks text into lines.

#include <string>
#include <string_view>
#include <vector>

namespace vmwhy::render {

/// Breaks at spaces into lines of at most `width` columns (one per code point); a longer word stays whole, so
/// that a path or a command can be copied. At least one line.
std::vector<std::string> wrap(std::string_view text, std::size_t width);

}  // namespace vmwhy::render
