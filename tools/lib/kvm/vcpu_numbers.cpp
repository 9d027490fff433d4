// SPDX-License-Identifier: BSD-2-Clause
#include "kvm/vcpu_numbers.hpp"

#include <fmt/format.h>

#include <iterator>

namespace vmwhy::kvm {
namespace {

/// "0 to 3, 8"
std::string join(const std::set<std::int32_t>& numbers) {
  std::string out;
  for (auto at = numbers.begin(); at != numbers.end();) {
    auto last = at;
    while (std::next(last) != numbers.end() && *std::next(last) == *last + 1) ++last;
    out += (out.empty() ? "" : ", ") + std::to_string(*at);
    if (last != at) out += (*last == *at + 1 ? ", " : " to ") + std::to_string(*last);
    at = std::next(last);
  }
  return out;
}

}  // namespace

std::string missing_vcpus(const std::set<std::int32_t>& there, const std::vector<std::int32_t>& wanted) {
  std::set<std::int32_t> missing(wanted.begin(), wanted.end());
  for (const std::int32_t number : there) missing.erase(number);
  if (there.empty() || missing.empty()) return {};
  return fmt::format("no vCPU {} here: there {} {}", join(missing), there.size() == 1 ? "is only" : "are",
                     join(there));
}

}  // namespace vmwhy::kvm
