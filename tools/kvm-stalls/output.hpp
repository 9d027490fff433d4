// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A report as tables and sentences, and as JSON (schema vmwhy.stalls/1, see kvm-stalls(1)). Decides nothing.

#include <boost/json/object.hpp>
#include <iosfwd>

#include "tools/kvm-stalls/model.hpp"

namespace vmwhy::kvm_stalls {

/// Where the time of each thread went.
void print_table(std::ostream& out, const Report& report, bool color);
/// The worst stalls, signals, and what was not seen.
void print_end(std::ostream& out, const Report& report, std::uint64_t began_ns, bool color);
/// One line: when, which VM, and what a person would say.
std::string line_of(const stalls::Stall& stall, const std::string& vm, std::uint64_t began_ns);
boost::json::object to_json(const Report& report);
/// What is installed and works here; returns whether the probes could run.
bool print_check(std::ostream& out, const bpf::Environment& environment);
/// Losses by name, "" where nothing was lost.
std::string losses_text(const bpf::StallsLosses& losses);
/// Sentences on threads whose shares do not add up to 100 % ± 0.1 %.
std::vector<std::string> errors_of(const Report& report);

}  // namespace vmwhy::kvm_stalls
