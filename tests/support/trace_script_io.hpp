// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The lines of a trace script (trace_script.hpp) that stand for records of the storage.

#include "tests/support/trace_script_line.hpp"
#include "trace/record.hpp"

namespace vmwhy::test {

trace::OwnedRecord io(const Line& line);
trace::OwnedRecord block_failure(const Line& line);
trace::OwnedRecord io_stats(const Line& line);
trace::OwnedRecord storage_link(const Line& line);

}  // namespace vmwhy::test
