// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Tables, events and maps as text and as JSON (schema vmwhy.io/1, see vm-iowatch(1)). Decides nothing.

#include <boost/json/object.hpp>
#include <iosfwd>
#include <string>
#include <vector>

#include "host/item.hpp"
#include "tools/vm-iowatch/events.hpp"
#include "tools/vm-iowatch/table.hpp"

namespace vmwhy::vm_iowatch {

/// @param window_ns  How long the counts were taken.
/// @return whose part came last: "VM web1", "host".
/// @param waits      Something that no group counts is waited for: the storage is not idle.
std::string print_table(std::ostream& out, const std::vector<Group>& groups, const std::string& wall,
                        std::uint64_t window_ns, bool waits);
/// One line for each operation that was seen, and for each file or disk with something in flight.
void print_stats_json(std::ostream& out, const std::vector<Group>& groups, std::uint64_t time_ns,
                      std::uint64_t window_ns);
/// "2026-11-29T22:42:44.279845Z web1 node file0: write …".
void print_event(std::ostream& out, const Event& event, const std::string& wall);
void print_json(std::ostream& out, const boost::json::object& line);
/// The line of kind "map".
boost::json::object map_json(const storage::Item& vm, const std::string& name, std::uint64_t time_ns);

}  // namespace vmwhy::vm_iowatch
