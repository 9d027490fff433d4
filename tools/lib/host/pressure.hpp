// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Pressure stall information of the host (/proc/pressure) or of a cgroup (*.pressure). Any thread.

#include <cstdint>
#include <string>
#include <string_view>

#include "core/failure.hpp"
#include "trace/record.hpp"

namespace vmwhy::host {

struct PressureLine {
  std::uint64_t total_us = 0;
  std::uint32_t avg10 = 0;  ///< Hundredths of a percent.
};
struct PressureFile {
  PressureLine some, full;
};

/// "some avg10=0.12 avg60=… total=34567" and its "full" line; what is missing stays zero.
PressureFile parse_pressure(std::string_view text);

/// The host's pressure as a record of vm 0. Errors: errno of /proc/pressure (EOPNOTSUPP: booted with psi=0).
Result<trace::OwnedRecord> host_pressure(std::uint64_t time_ns, const std::string& proc = "/proc");

/// A cgroup v2 folder's pressure as a record of `vm`; text is `name`. Errors: errno.
Result<trace::OwnedRecord> cgroup_pressure(const std::string& folder, const std::string& name,
                                           std::uint64_t time_ns, std::uint32_t vm);

}  // namespace vmwhy::host
