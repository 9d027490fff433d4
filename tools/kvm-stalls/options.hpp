// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The command line of kvm-stalls.

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "cli/cli.hpp"
#include "tools/kvm-stalls/reaction.hpp"

namespace vmwhy::kvm_stalls {

struct Options {
  std::vector<std::uint32_t> pids;
  std::vector<std::string> names;
  bool all = false;
  std::vector<std::int32_t> vcpus;       ///< Only these, and no other threads; empty: every thread.
  std::chrono::nanoseconds interval{0};  ///< 0: one table at the end.
  std::chrono::nanoseconds duration{0};  ///< 0: until a signal, or the last VM's end.
  std::chrono::nanoseconds min_latency{10'000'000};
  std::uint64_t top = 10;  ///< So many stalls are shown at the end, and told a second.
  std::vector<Reaction> reactions;
  bool json = false, check = false, quiet = false;
  std::string output;
  bool syscall_probes =
      false;  ///< Follow storage requests also where that slows down every call of the host.
  std::uint64_t max_threads = 0;  ///< 0: from the VMs found.
  cli::Color color = cli::Color::automatic;
  std::string args;  ///< The whole command line, for the trace.

  std::uint64_t vcpu_threshold_ns() const { return static_cast<std::uint64_t>(min_latency.count()); }
};

struct Parsed {
  std::optional<Options> options;
  int exit_code = 0;  ///< Where there are none.
};
Parsed parse_options(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

}  // namespace vmwhy::kvm_stalls
