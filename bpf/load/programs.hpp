// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What can be asked of loaded programs, whichever family they belong to.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

struct bpf_object;
struct bpf_program;

namespace vmwhy::bpf {

/// Runs `program` once with `arguments` (bpf_prog_test_run; raw_tp programs only).
/// @return 0, or an errno: ENOENT where there is no such program.
int test_run(const bpf_object* object, const std::string& program, std::vector<std::uint64_t> arguments);

/// Runs so far and the ns they took, by the kernel's statistics (0 ns unless kernel.bpf_stats_enabled).
/// Null programs are passed over.
std::pair<std::uint64_t, std::uint64_t> run_time(const std::vector<const bpf_program*>& programs);

}  // namespace vmwhy::bpf
