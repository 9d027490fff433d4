// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What the table shows, as records of a trace.

#include <cstdint>
#include <vector>

#include "record/recorder.hpp"
#include "tools/vm-iowatch/table.hpp"

namespace vmwhy::vm_iowatch {

/// io_stats records: one for each operation that was seen, and one for each file or disk without any.
/// @param now_ns     When the window ended, CLOCK_BOOTTIME.
/// @param window_ns  How long the counts were taken.
void record_stats(record::Recorder& recorder, const std::vector<Group>& groups, std::uint64_t now_ns,
                  std::uint64_t window_ns);

}  // namespace vmwhy::vm_iowatch
