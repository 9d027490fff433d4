// SPDX-License-Identifier: BSD-2-Clause
#include <array>

#include "causes/rules/rules.hpp"

namespace vmwhy::causes {

std::span<const Rule> rules() {
  static constexpr auto kRules = std::to_array<Rule>({
      {"storage-full", 30, judge_storage_full},
      {"storage-device-gone", 40, judge_storage_device_gone},
      {"storage-quota", 25, judge_storage_quota},
      {"storage-thin-full", 30, judge_storage_thin_full},
      {"storage-short-write", 25, judge_storage_short_write},
      {"storage-beyond-end", 35, judge_storage_beyond_end},
      {"operator-stop", 10, judge_operator_stop},
      {"snapshot-or-save", 20, judge_snapshot_or_save},
      {"debugger", 40, judge_debugger},
      {"incoming-wait", 10, judge_incoming_wait},
      {"never-started", 10, judge_never_started},
      {"colo", 10, judge_colo},
  });
  return kRules;
}

}  // namespace vmwhy::causes
