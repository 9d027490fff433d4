// SPDX-License-Identifier: BSD-2-Clause
#include "causes/cause_names.hpp"

#include <algorithm>

#include "causes/rule.hpp"

namespace vmwhy::causes {

std::vector<std::string_view> cause_names() {
  std::vector<std::string_view> names{"unknown"};
  for (const Rule& rule : rules()) names.push_back(rule.cause);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

bool is_cause(std::string_view name) {
  const auto names = cause_names();
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace vmwhy::causes
