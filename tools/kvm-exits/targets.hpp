// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Which QEMUs are meant, and what is known of them.

#include <map>

#include "core/failure.hpp"
#include "qmp/client.hpp"
#include "tools/kvm-exits/model.hpp"
#include "tools/kvm-exits/options.hpp"

namespace vmwhy::kvm_exits {

struct Targets {
  std::vector<std::uint32_t> pids;  ///< Empty: all.
  std::map<std::uint32_t, KnownVm> known;
  std::map<std::uint32_t, qmp::Address> monitors;  ///< By pid: where it can be asked; given, or free.
  std::size_t threads = 0;                         ///< Of the QEMUs found: at most so many vCPUs.
};

/// Errors: a sentence that names what was not found, with what there is instead.
Result<Targets> find_targets(const Options& options);
/// Adds what can be learned of a process that was not there at the beginning.
void learn(Targets& targets, std::uint32_t pid);

}  // namespace vmwhy::kvm_exits
