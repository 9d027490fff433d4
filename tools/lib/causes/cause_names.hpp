// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The names that a verdict can give to a cause: those of the rules, and "unknown". Plain values, any thread.

#include <string_view>
#include <vector>

namespace vmwhy::causes {

/// Each once, sorted.
std::vector<std::string_view> cause_names();
bool is_cause(std::string_view name);

}  // namespace vmwhy::causes
