// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What to say of vCPUs that somebody asked for and that no VM has. Pure functions.

#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace vmwhy::kvm {

/// "no vCPU 7 here: there are 0 to 3". "" where each of `wanted` is there, or nothing is known.
/// @param there  The numbers of the vCPUs of all VMs that are watched.
std::string missing_vcpus(const std::set<std::int32_t>& there, const std::vector<std::int32_t>& wanted);

}  // namespace vmwhy::kvm
