// SPDX-License-Identifier: BSD-2-Clause
#include "tools/vm-iowatch/output.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <ostream>

#include "core/text.hpp"

namespace vmwhy::vm_iowatch {
namespace {

std::string time_text(const std::optional<std::uint64_t>& ns) {
  return ns ? human_duration(static_cast<std::int64_t>(*ns)) : "-";
}

bool seen(const Line& line) {
  return line.count != 0 || line.errors != 0;
}

}  // namespace

void print_json(std::ostream& out, const boost::json::object& line) {
  out << json_safe(boost::json::serialize(line)) << "\n" << std::flush;
}

void print_event(std::ostream& out, const Event& event, const std::string& wall) {
  out << wall << " " << (event.vm.empty() ? "" : printable(event.vm, 64) + " ") << printable(event.text)
      << "\n"
      << std::flush;
}

std::string print_table(std::ostream& out, const std::vector<Group>& groups, const std::string& wall,
                        std::uint64_t window_ns, bool waits) {
  out << fmt::format("{:<40}{:>8} {:>8} {:>9} {:>9} {:>9} {:>9} {:>5}\n", wall, "/s", "MiB/s", "mean", "p50",
                     "p99", "max", "err");
  std::string vm;
  bool idle = !waits;
  for (const Group& group : groups) {
    const double seconds = static_cast<double>(group.window_ns.value_or(window_ns)) / 1e9;
    const bool waits = group.in_flight && group.in_flight->count != 0;
    if (!waits && std::none_of(group.lines.begin(), group.lines.end(), seen)) continue;
    idle = false;
    const std::string owner = group.vm.empty() ? "host" : "VM " + printable(group.vm, 64);
    if (owner != vm) out << owner << "\n";
    vm = owner;
    std::string in_flight;
    if (waits) {
      in_flight = fmt::format("   {} in flight", group.in_flight->count);
      if (group.in_flight->timed)
        in_flight +=
            ", the oldest for " + human_duration(static_cast<std::int64_t>(group.in_flight->oldest_ns));
    }
    out << "  " << printable(group.title, 160) << in_flight << "\n";
    for (const Line& line : group.lines) {
      if (!seen(line)) continue;
      out << fmt::format("    {:<36}{:>8.0f} {:>8.1f} {:>9} {:>9} {:>9} {:>9} {:>5}\n", line.op,
                         static_cast<double>(line.count) / seconds,
                         static_cast<double>(line.bytes) / 1048576.0 / seconds, time_text(line.mean_ns),
                         time_text(line.p50_ns), time_text(line.p99_ns), time_text(line.max_ns), line.errors);
    }
  }
  const auto of_vm = [](const Group& group) { return !group.vm.empty(); };
  if (idle && std::any_of(groups.begin(), groups.end(), of_vm))
    out << "  nothing was asked of the storage\n";
  else if (idle)
    out << "  " << (groups.empty() ? "" : "nothing was asked of the disks; ")
        << "the VM's own requests are not seen: no kernel probes of its calls, and no monitor\n";
  out << std::flush;
  return vm;
}

void print_stats_json(std::ostream& out, const std::vector<Group>& groups, std::uint64_t time_ns,
                      std::uint64_t window_ns) {
  for (const Group& group : groups) {
    const bool waits = group.in_flight && group.in_flight->count != 0;
    bool printed = false;
    const auto print = [&](const Line* line) {
      boost::json::object object{{"schema", "vmwhy.io/1"},
                                 {"kind", "stats"},
                                 {"time_ns", time_ns},
                                 {"window_ns", group.window_ns.value_or(window_ns)},
                                 {"layer", group.layer}};
      const auto add = [&](const char* key, const std::string& value) {
        if (!value.empty()) object[key] = value;
      };
      add("vm", group.vm);
      add("node", group.node);
      add("device", group.device);
      add("path", group.path);
      if (group.in_flight) object["in_flight"] = group.in_flight->count;
      if (waits && group.in_flight->timed) object["oldest_ns"] = group.in_flight->oldest_ns;
      if (line != nullptr) {
        object["op"] = line->op;
        object["source"] = line->source;
        object["count"] = line->count;
        object["errors"] = line->errors;
        object["bytes"] = line->bytes;
        const auto add_time = [&](const char* key, const std::optional<std::uint64_t>& value) {
          if (value) object[key] = *value;
        };
        add_time("mean_ns", line->mean_ns);
        add_time("p50_ns", line->p50_ns);
        add_time("p99_ns", line->p99_ns);
        add_time("max_ns", line->max_ns);
      }
      print_json(out, object);
      printed = true;
    };
    for (const Line& line : group.lines)
      if (seen(line)) print(&line);
    if (waits && !printed) print(nullptr);
  }
}

boost::json::object map_json(const storage::Item& vm, const std::string& name, std::uint64_t time_ns) {
  boost::json::object out{{"schema", "vmwhy.io/1"}, {"kind", "map"}, {"time_ns", time_ns}, {"vm", name}};
  const boost::json::object tree = host::to_json(vm);
  for (const char* key : {"pid", "note"})
    if (const auto* value = tree.if_contains(key)) out[key] = *value;
  const auto* below = tree.if_contains("below");
  out["tree"] = below != nullptr ? *below : boost::json::value(boost::json::array());
  return out;
}

}  // namespace vmwhy::vm_iowatch
