// SPDX-License-Identifier: BSD-2-Clause
#include "tools/vm-iowatch/stats_records.hpp"

#include <utility>

namespace vmwhy::vm_iowatch {
namespace {

trace::IoLayer layer_of(const Group& group) {
  if (group.layer == "qemu") return trace::IoLayer::guest;
  return group.layer == "syscall" ? trace::IoLayer::syscall : trace::IoLayer::block;
}

trace::IoOperation operation_of(const std::string& name) {
  for (const auto& [known, operation] : {std::pair{"read", trace::IoOperation::read},
                                         {"write", trace::IoOperation::write},
                                         {"flush", trace::IoOperation::flush}})
    if (name == known) return operation;
  return trace::IoOperation::other;
}

}  // namespace

void record_stats(record::Recorder& recorder, const std::vector<Group>& groups, std::uint64_t now_ns,
                  std::uint64_t window_ns) {
  for (const Group& group : groups) {
    trace::IoStats common{};
    common.window_ns = group.window_ns.value_or(window_ns);
    common.layer = static_cast<std::uint32_t>(layer_of(group));
    if (group.in_flight) {
      common.in_flight = static_cast<std::uint32_t>(group.in_flight->count);
      if (group.in_flight->timed) common.oldest_ns = group.in_flight->oldest_ns;
    }
    const auto add = [&](const trace::IoStats& stats) {
      recorder.add(trace::make_record(now_ns, group.vm_id, stats,
                                      trace::join_text({group.node, group.device, group.path})));
    };
    bool added = false;
    for (const Line& line : group.lines) {
      if (line.count == 0 && line.errors == 0) continue;
      trace::IoStats stats = common;
      stats.count = line.count;
      stats.errors = line.errors;
      stats.bytes = line.bytes;
      stats.mean_ns = line.mean_ns.value_or(0);
      stats.max_ns = line.max_ns.value_or(0);
      stats.operation = static_cast<std::uint32_t>(operation_of(line.op));
      add(stats);
      added = true;
    }
    // QEMU may not have been asked about a guest device; a file or a disk without requests was idle.
    if (!added && group.layer != "qemu") add(common);
  }
}

}  // namespace vmwhy::vm_iowatch
