// SPDX-License-Identifier: BSD-2-Clause
// Storage that takes long and goes well: at which layer the time goes.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "causes/rules/rules.hpp"
#include "causes/rules/storage_common.hpp"
#include "core/text.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {
namespace {

std::string duration(std::uint64_t ns) {
  return human_duration(static_cast<std::int64_t>(std::min<std::uint64_t>(ns, INT64_MAX)));
}

/// Requests of one layer in the incident's windows.
struct LayerTimes {
  bool seen = false;  ///< It was looked at, busy or not.
  std::uint64_t count = 0, total_ns = 0;
  std::uint64_t longest_ns = 0;  ///< An upper bound for every request: ended or not.
  bool bounded = true;           ///< longest_ns covers all of them: none was counted without its maximum.
  std::uint64_t time_ns = 0;     ///< The last window.
  std::string slowest;           ///< Disk or file of longest_ns.

  std::uint64_t mean_ns() const { return count == 0 ? 0 : total_ns / count; }
  void add(const timeline::IoStats& stats) {
    seen = true;
    time_ns = stats.time_ns;
    count += stats.io.count;
    total_ns += stats.io.count * stats.io.mean_ns;
    bounded = bounded && (stats.io.count == 0 || stats.io.max_ns != 0) &&
              (stats.io.in_flight == 0 || stats.io.oldest_ns != 0);
    const std::uint64_t longest = std::max({stats.io.mean_ns, stats.io.max_ns, stats.io.oldest_ns});
    if (!slowest.empty() && longest <= longest_ns) return;
    longest_ns = longest;
    slowest = stats.disk.empty() ? stats.path : stats.disk;
  }
};

/// What the guest waited for a node, and what the layers below took meanwhile.
struct Slowness {
  LayerTimes guest, calls, disks;
  std::uint64_t window_ns = 0;  ///< Sum of the guest's windows.

  std::uint64_t longest_below() const { return std::max(calls.longest_ns, disks.longest_ns); }
  std::uint64_t mean_below() const { return std::max(calls.mean_ns(), disks.mean_ns()); }
};

bool in_incident(const Case& c, const timeline::IoStats& stats) {
  return stats.time_ns > c.begin && stats.begin_ns() < c.until;
}

Slowness measure(const Case& c) {
  Slowness out;
  std::uint64_t window = 0;
  for (const timeline::IoStats& stats : c.vm.io_stats) {
    if (!in_incident(c, stats)) continue;
    if (stats.of(trace::IoLayer::syscall)) out.calls.add(stats);
    if (!stats.of_guest_data() || stats.node != c.storage.node) continue;
    if (stats.time_ns != window) out.window_ns += stats.io.window_ns;
    window = stats.time_ns;
    out.guest.add(stats);
  }
  for (const timeline::IoStats& stats : c.timeline.host().disk_stats)
    if (in_incident(c, stats)) out.disks.add(stats);
  return out;
}

/// Calls above the watcher's threshold, or under way.
const timeline::IoRequest* slow_call(const Case& c) {
  for (const timeline::IoRequest& request : c.vm.requests)
    if (!request.failed() && request.time_ns >= c.begin && request.time_ns <= c.until) return &request;
  return nullptr;
}

Evidence guest_evidence(const Case& c, const Slowness& slow) {
  return {slow.guest.time_ns, "qmp",
          fmt::format(
              "query-blockstats: the guest's reads and writes to node '{}', {} of them, took {} on average",
              c.storage.node, slow.guest.count, duration(slow.guest.mean_ns()))};
}

Evidence layer_evidence(const char* source, std::string_view requests, std::string_view idle,
                        const LayerTimes& layer) {
  if (layer.count == 0) return {layer.time_ns, source, std::string(idle)};
  return {layer.time_ns, source,
          fmt::format("{} {} took {} on average, {} {} ({})", layer.count, requests,
                      duration(layer.mean_ns()), layer.bounded ? "none above" : "the slowest that is known",
                      duration(layer.longest_ns), layer.slowest)};
}

void add_layers(const Slowness& slow, Finding& finding) {
  if (slow.calls.seen)
    finding.evidence.push_back(layer_evidence("syscall", "calls of QEMU on its files",
                                              "QEMU asked nothing of the files meanwhile", slow.calls));
  if (slow.disks.seen)
    finding.evidence.push_back(layer_evidence("block", "requests of the disks",
                                              "nothing was asked of the disks meanwhile", slow.disks));
}

/// A limit of QEMU's own throttle, and how much of it the guest used.
struct Limit {
  std::string name;
  std::uint64_t value = 0;
  double used = 0;    ///< Per second.
  std::string group;  ///< Of a throttle filter; empty: the device's own.
  bool reached() const { return used >= 0.8 * static_cast<double>(value); }
  double share() const { return used / static_cast<double>(value); }
  const char* unit() const { return name.starts_with("iops") ? "requests" : "bytes"; }
};

/// What guest devices asked for in the incident's windows.
struct Load {
  std::uint64_t count = 0, bytes = 0, reads = 0, read_bytes = 0;
};

Load load_of(const Case& c, const std::set<std::string>& nodes) {
  Load out;
  for (const timeline::IoStats& stats : c.vm.io_stats) {
    if (!in_incident(c, stats) || !stats.of_guest_data() || !nodes.contains(stats.node)) continue;
    out.count += stats.io.count;
    out.bytes += stats.io.bytes;
    if (!stats.is(trace::IoOperation::read)) continue;
    out.reads += stats.io.count;
    out.read_bytes += stats.io.bytes;
  }
  return out;
}

/// Throttle groups that requests to a node pass, by QEMU's last description of it and of what is below.
std::set<std::string> groups_of(const timeline::BlockGraph& graph, const std::string& node) {
  std::set<std::string> out, seen{node};
  std::vector<std::string> todo{node};
  while (!todo.empty() && seen.size() < 64) {
    const auto at = graph.nodes.find(todo.back());
    todo.pop_back();
    if (at == graph.nodes.end()) continue;
    out.insert(at->second.throttle_groups.begin(), at->second.throttle_groups.end());
    for (const std::string& child : at->second.children)
      if (seen.insert(child).second) todo.push_back(child);
  }
  return out;
}

bool is_filtered(const Case& c) {
  const timeline::BlockGraph* graph = c.vm.graphs.last_in(0, c.until + timeline::kSecond);
  return c.storage.has_driver("throttle") || (graph != nullptr && !groups_of(*graph, c.storage.node).empty());
}

/// The limit that is used most, of these.
void take_limits(const Case& c, const Slowness& slow, const std::map<std::string, std::uint64_t>& limits,
                 const std::set<std::string>& nodes, const std::string& group, std::optional<Limit>& most) {
  const Load load = load_of(c, nodes);
  for (const auto& [name, value] : limits) {
    const bool iops = name.starts_with("iops");
    std::uint64_t sum = iops ? load.count : load.bytes;
    const std::uint64_t reads = iops ? load.reads : load.read_bytes;
    if (name.ends_with("_rd")) sum = reads;
    if (name.ends_with("_wr")) sum -= reads;
    const double used = static_cast<double>(sum) * 1e9 / static_cast<double>(slow.window_ns);
    Limit limit{name, value, used, group};
    if (!most || limit.share() > most->share()) most = std::move(limit);
  }
}

/// Of a throttle filter the group's limits count, which other guest devices may share.
void take_groups(const Case& c, const Slowness& slow, std::optional<Limit>& most) {
  const timeline::BlockGraph* graph = c.vm.graphs.last_in(0, c.until + timeline::kSecond);
  if (graph == nullptr) return;
  for (const std::string& id : groups_of(*graph, c.storage.node)) {
    const timeline::ThrottleGroup* group = nullptr;
    for (const timeline::ThrottleGroup& each : c.vm.throttle_groups)
      if (each.id == id && (group == nullptr || each.time_ns <= c.until)) group = &each;
    if (group == nullptr) continue;
    std::set<std::string> members;
    for (const timeline::IoStats& stats : c.vm.io_stats)
      if (stats.of_guest_data() && !members.contains(stats.node) &&
          groups_of(*graph, stats.node).contains(id))
        members.insert(stats.node);
    take_limits(c, slow, group->limits, members, id, most);
  }
}

std::optional<Limit> limit_of(const Case& c, const Slowness& slow) {
  std::optional<Limit> most;
  if (slow.window_ns == 0) return most;
  const timeline::BlockBackends* backends = c.vm.backends.last_in(0, c.until);
  if (backends != nullptr && backends->limits.contains(c.storage.node))
    take_limits(c, slow, backends->limits.at(c.storage.node), {c.storage.node}, "", most);
  take_groups(c, slow, most);
  return most;
}

void blame_limit(const Case& c, const Slowness& slow, const Limit& limit, Finding& finding) {
  const bool filter = !limit.group.empty();
  finding.summary += fmt::format(": {} lets through {} {} a second",
                                 filter ? "throttle group '" + limit.group + "'" : "its throttle",
                                 limit.value, limit.unit());
  finding.details["limit"] = limit.name;
  finding.details["limit_value"] = limit.value;
  if (filter) finding.details["throttle_group"] = limit.group;
  finding.evidence.push_back(
      {slow.guest.time_ns, "qmp",
       filter
           ? fmt::format("qom-get: {} of throttle group '{}' is limited to {}; {:.0f} a second went through",
                         limit.name, limit.group, limit.value, limit.used)
           : fmt::format("query-block: {} of node '{}' is limited to {}; {:.0f} a second went through",
                         limit.name, c.storage.node, limit.value, limit.used)});
  finding.remedy.push_back(
      filter
          ? fmt::format("raise or remove the limit: qom-set of property limits of /objects/{}", limit.group)
          : "raise or remove the limit: block_set_io_throttle; under libvirt: virsh blkdeviotune DOMAIN "
            "DISK");
}

/// The VM, or its QEMU, stood still for a while: a request that waited for that is not slow storage.
bool stood_still(const Case& c) {
  if (c.vm.first_event("STOP", c.begin, c.until) != nullptr) return true;
  for (const timeline::Process& process : c.vm.processes)
    if (process.time_ns >= c.begin && process.time_ns <= c.until &&
        (process.state.state == 'T' || process.state.state == 't'))
      return true;
  for (const timeline::LinkChange& change : c.vm.link_changes)
    if (change.time_ns >= c.begin && change.time_ns <= c.until &&
        change.state == trace::QmpLinkState::reply_overdue)
      return true;
  return false;
}

/// Neither this cause nor another one's absence is shown.
Opinion not_told(const Case& c, const Slowness& slow, std::string why) {
  Opinion out = nothing();
  out.not_proved.push_back({fmt::format("where the guest's requests to node '{}' wait, {} on average",
                                        c.storage.node, duration(slow.guest.mean_ns())),
                            std::move(why)});
  return out;
}

bool is_slow_storage(const Case& c) {
  return c.incident.topic == timeline::Topic::storage_slow;
}

}  // namespace

Opinion judge_storage_slow(const Case& c) {
  if (!is_slow_storage(c)) return nothing();
  const timeline::IoRequest* slowest = nullptr;
  Finding finding;
  std::uint64_t count = 0, slowest_at = 0;
  for (const timeline::IoRequest& request : c.vm.requests) {
    if (request.io.what != static_cast<std::uint32_t>(trace::IoWhat::slow) || request.time_ns < c.begin ||
        request.time_ns > c.until)
      continue;
    if (++count <= 2) finding.evidence.push_back(request_evidence(request));
    if (slowest != nullptr && request.io.duration_ns <= slowest->io.duration_ns) continue;
    slowest = &request;
    slowest_at = count;
  }
  const std::string remedy = fmt::format("see where the time goes: vm-iowatch -p {}", c.vm.pid);
  if (slowest != nullptr) {
    finding.confidence = Confidence::proven;
    if (slowest_at > 2) finding.evidence.push_back(request_evidence(*slowest));
    finding.summary = fmt::format("{} storage request{} took long and went well, the slowest {} ({})", count,
                                  count == 1 ? "" : "s", duration(slowest->io.duration_ns), slowest->path);
    finding.details["path"] = slowest->path;
    finding.details["slow_requests"] = count;
    finding.details["max_latency_ns"] = slowest->io.duration_ns;
    finding.not_proved.push_back(
        {"which layer below the system call is slow", "vm-iowatch shows each layer's latencies"});
    finding.remedy.push_back(remedy);
    return found(std::move(finding));
  }
  const Slowness slow = measure(c);
  if (!slow.guest.seen || stood_still(c)) return nothing();
  if (slow.mean_below() < slow.guest.mean_ns() / 2) {
    if (!slow.calls.seen || !c.storage.network_driver().empty()) return nothing();
    return against("storage-slow",
                   fmt::format("the layers below QEMU took {} on average, the guest's requests {}",
                               duration(slow.mean_below()), duration(slow.guest.mean_ns())));
  }
  const bool disks = slow.disks.mean_ns() >= slow.guest.mean_ns() / 2;
  const LayerTimes& layer = disks ? slow.disks : slow.calls;
  finding.summary = fmt::format("the guest's requests to node '{}' take {} on average, and {} {} on average",
                                c.storage.node, duration(slow.guest.mean_ns()),
                                disks ? "those of the disks below take" : "QEMU's calls on its files take",
                                duration(layer.mean_ns()));
  finding.details["node"] = c.storage.node;
  finding.details["mean_latency_ns"] = slow.guest.mean_ns();
  finding.details["slow_layer"] = disks ? "block" : "syscall";
  finding.evidence.push_back(guest_evidence(c, slow));
  add_layers(slow, finding);
  finding.not_proved.push_back(
      {"that it is the same requests", "averages of each layer were compared, not single requests"});
  finding.remedy.push_back(remedy);
  return found(std::move(finding));
}

Opinion judge_network_slow(const Case& c) {
  if (!is_slow_storage(c)) return nothing();
  const std::string driver(c.storage.network_driver());
  const Slowness slow = measure(c);
  if (driver.empty() || !slow.guest.seen || stood_still(c)) return nothing();
  if (const auto limit = limit_of(c, slow); limit && limit->reached()) return nothing();
  Finding finding;
  finding.summary = fmt::format(
      "the guest's requests to node '{}' take {} on average; its storage is remote ({}): the server and the "
      "connection are the first suspects",
      c.storage.node, duration(slow.guest.mean_ns()), driver);
  finding.details["node"] = c.storage.node;
  finding.details["transport"] = driver;
  finding.details["mean_latency_ns"] = slow.guest.mean_ns();
  finding.evidence.push_back(guest_evidence(c, slow));
  add_link_quality(c, finding);
  finding.not_proved.push_back(
      {"whether the server or the connection is slow", "what goes over the socket is not read"});
  finding.remedy.emplace_back(
      "look at the server's load and at the link (ss -ti shows the socket's retransmits)");
  return found(std::move(finding));
}

Opinion judge_qemu_io_stall(const Case& c) {
  if (!is_slow_storage(c)) return nothing();
  if (const timeline::IoRequest* call = slow_call(c))
    return against("qemu-io-stall", fmt::format("a call of QEMU on {} took {} itself", call->path,
                                                duration(call->io.duration_ns)));
  const Slowness slow = measure(c);
  if (!slow.guest.seen || stood_still(c)) return nothing();
  const std::uint64_t mean = slow.guest.mean_ns();
  const std::optional<Limit> limit = limit_of(c, slow);
  const bool limited = limit && limit->reached();
  const bool below_seen = slow.calls.seen || slow.disks.seen;
  // Below is a server, which idle disks of this host say nothing of.
  const bool served = c.storage.file == nullptr || network_file_system(c.storage.file) ||
                      contains(c.storage.file->fs_type, "fuse");
  const bool remote = !c.storage.network_driver().empty() || (served && !slow.calls.seen);
  if (!limited && remote) return nothing();
  if (!limited && !slow.calls.seen)
    return not_told(c, slow,
                    "QEMU's calls on its files were not seen; vm-iowatch --syscall-probes shows them");
  const bool all_short =
      below_seen && slow.calls.bounded && slow.disks.bounded && slow.longest_below() < mean / 4;
  if (slow.mean_below() >= mean / 2) return nothing();
  if (limited ? slow.mean_below() >= mean / 4 : !all_short)
    return not_told(c, slow,
                    fmt::format("a request below QEMU waited for {}", duration(slow.longest_below())));

  Finding finding;
  finding.confidence = limited && all_short && !remote ? Confidence::proven : Confidence::likely;
  finding.summary = fmt::format("QEMU itself holds the guest's requests to node '{}', {} on average",
                                c.storage.node, duration(mean));
  finding.details["node"] = c.storage.node;
  finding.details["mean_latency_ns"] = mean;
  finding.evidence.push_back(guest_evidence(c, slow));
  if (limited) {
    blame_limit(c, slow, *limit, finding);
  } else {
    const timeline::BlockBackends* backends = c.vm.backends.last_in(0, c.until);
    std::string why = backends != nullptr && backends->limits_known
                          ? "no throttle of the device is set; an iothread or main loop that is busy or "
                            "waits, or a drained "
                            "node, looks like this"
                          : "QEMU did not tell whether a throttle of the device is set";
    if (limit && !limit->group.empty())
      why = fmt::format("throttle group '{}' is set ({} {}), and was not reached", limit->group, limit->name,
                        limit->value);
    else if (limit)
      why =
          fmt::format("its throttle is set ({} {}) and this disk alone did not reach it; others may share it",
                      limit->name, limit->value);
    else if (is_filtered(c))
      why = "a throttle filter is in the way, and its limits were not told";
    finding.not_proved.push_back({"what in QEMU holds them", std::move(why)});
    finding.remedy.push_back(fmt::format("see what QEMU's threads wait for: kvm-stalls -p {}", c.vm.pid));
  }
  add_layers(slow, finding);
  if (!below_seen)
    finding.not_proved.push_back({"that the layers below are idle", "neither calls nor disks were counted"});
  else if (limited && !all_short)
    finding.not_proved.push_back(
        {"that nothing below holds any of them",
         slow.longest_below() < mean / 4
             ? "not every request below was timed"
             : fmt::format("one request below waited for {}", duration(slow.longest_below()))});
  return found(std::move(finding));
}

}  // namespace vmwhy::causes
