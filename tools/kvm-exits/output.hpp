// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A report as a table, as JSON (schema vmwhy.exits/1, see kvm-exits(1)) and as CSV. Decides nothing.

#include <boost/json/object.hpp>
#include <iosfwd>

#include "tools/kvm-exits/model.hpp"

namespace vmwhy::kvm_exits {

void print_table(std::ostream& out, const Report& report, Key key, bool color);
boost::json::object to_json(const Report& report);
void print_csv_head(std::ostream& out);
/// @param time_ns  Since the beginning of the run.
void print_csv(std::ostream& out, const Report& report, std::uint64_t time_ns);
/// What is installed and works here; returns whether the probe could run.
bool print_check(std::ostream& out, const bpf::Environment& environment);
/// Losses by name, "" where nothing was lost.
std::string losses_text(const bpf::KvmExitsLosses& losses);

}  // namespace vmwhy::kvm_exits
