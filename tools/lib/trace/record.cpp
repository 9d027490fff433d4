// SPDX-License-Identifier: BSD-2-Clause
#include "trace/record.hpp"

#include <algorithm>

namespace vmwhy::trace {

std::string join_text(std::initializer_list<std::string_view> parts) {
  std::string out;
  bool first = true;
  for (std::string_view part : parts) {
    if (!first) out += '\0';
    first = false;
    const std::size_t begin = out.size();
    out += part;
    std::replace(out.begin() + static_cast<std::ptrdiff_t>(begin), out.end(), '\0', ' ');
  }
  return out;
}

std::string_view text_field(std::string_view text, std::size_t n) {
  for (; n > 0; --n) {
    const std::size_t nul = text.find('\0');
    if (nul == std::string_view::npos) return {};
    text.remove_prefix(nul + 1);
  }
  return text.substr(0, text.find('\0'));
}

}  // namespace vmwhy::trace
