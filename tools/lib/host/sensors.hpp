// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What can be seen on this host, found out by trying it: the matrix of --check, and the sensor records of a
// trace.

#include <string>
#include <vector>

#include "trace/record.hpp"

namespace vmwhy::host {

struct SensorReport {
  std::string name;  ///< As in trace::Sensor.
  trace::SensorState state = trace::SensorState::off;
  int error = 0;       ///< errno, or 0.
  std::string detail;  ///< What it sees, or why it does not.
  std::string remedy;  ///< Empty where nothing is to be done.
};

/// proc, kmsg, psi, cgroup, reach, exit, bpf. Forks once (the first time), so call it before threads exist.
std::vector<SensorReport> probe_sensors();

/// @param vm  Of what is seen of that VM alone; 0: of the host.
trace::OwnedRecord sensor_record(std::uint64_t time_ns, const SensorReport& report, std::uint32_t vm = 0);

std::string_view to_string(trace::SensorState state);

}  // namespace vmwhy::host
