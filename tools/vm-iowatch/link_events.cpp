// SPDX-License-Identifier: BSD-2-Clause
#include "tools/vm-iowatch/link_events.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "core/text.hpp"
#include "tools/vm-iowatch/output.hpp"

namespace vmwhy::vm_iowatch {
namespace {

std::vector<std::string> names_of(const std::string& nodes) {
  std::vector<std::string> out;
  for (const std::string_view name : split(nodes, ',')) out.emplace_back(trim(name));
  return out;
}

/// What is known of the connection, in a chain or a line of statistics.
boost::json::object facts_of(const timeline::StorageLink& link) {
  boost::json::object out{{"transport", link.driver}, {"address", link.address}};
  const auto add = [&](const char* key, std::uint64_t value, std::uint64_t unknown) {
    if (value != unknown) out[key] = value;
  };
  add("unread_bytes", link.link.unread_bytes, UINT64_MAX);
  add("guest_requests", link.link.in_flight, UINT32_MAX);
  add("guest_quiet_ns", link.link.guest_quiet_ns, UINT64_MAX);
  if (link.has(trace::kLinkTcp) && link.connected()) {
    add("unacked_bytes", link.link.unacked_bytes, UINT64_MAX);
    add("last_sent_ns", link.link.last_sent_ns, UINT64_MAX);
    add("last_received_ns", link.link.last_received_ns, UINT64_MAX);
    add("retransmits", link.link.retransmits, UINT32_MAX);
    add("retransmitted", link.link.retransmitted, UINT64_MAX);
    add("rtt_us", link.link.rtt_us, 0);
    out["window_closed"] = link.has(trace::kLinkWindowClosed);
  }
  if (link.link.server_pid != 0) {
    out["server_pid"] = link.link.server_pid;
    out["server"] = link.server;
    if (link.link.server_state != 0)
      out["server_state"] =
          std::string(1, static_cast<char>(std::clamp<unsigned>(link.link.server_state, 33, 126)));
  }
  return out;
}

timeline::StorageLink shown(const storage::ServerLinks::Link& link) {
  timeline::StorageLink out;
  out.link = link.now;
  for (const std::string& node : link.nodes) out.nodes += (out.nodes.empty() ? "" : ", ") + node;
  out.driver = link.address.driver;
  out.address = link.address.to_string();
  out.server = link.server;
  return out;
}

}  // namespace

LinkEvents::LinkEvents(Events::FindVm find_vm, std::uint64_t slow_ns, std::string node,
                       Events::Handler handler)
    : find_vm_(std::move(find_vm)), slow_ns_(slow_ns), node_(std::move(node)), handler_(std::move(handler)) {}

bool LinkEvents::wanted(std::uint32_t id, const std::string& nodes) const {
  const Vm* vm = node_.empty() ? nullptr : find_vm_(id);
  if (vm == nullptr) return node_.empty();
  const auto names = names_of(nodes);
  return std::ranges::any_of(names,
                             [&](const std::string& name) { return vm->map().graph.is_under(name, node_); });
}

Event LinkEvents::event_of(std::uint32_t vm, const timeline::StorageLink& link) const {
  Event event;
  const Vm* its = find_vm_(vm);
  event.time_ns = link.time_ns;
  event.vm = its != nullptr ? its->name() : "";
  // The client's own: those above it have the same server, and are listed first.
  if (const auto names = names_of(link.nodes); !names.empty()) event.node = names.back();
  event.layer = "net";
  event.address = link.address;
  event.chain.push_back(boost::json::object{{"layer", "qemu"}, {"node", event.node}});
  boost::json::object net = facts_of(link);
  net["layer"] = "net";
  event.chain.push_back(std::move(net));
  const std::string facts = link.facts();
  event.text = fmt::format("node {}: {} {}{}{}", event.node, link.who(), link.what(),
                           facts.empty() ? "" : ": ", facts);
  return event;
}

void LinkEvents::take(const trace::RecordView& record) {
  if (record.type() != trace::StorageLink::kType) return;
  const timeline::StorageLink link = timeline::decode_storage_link(record);
  if (!wanted(record.header.vm, link.nodes)) return;
  const std::pair key{record.header.vm, fmt::format("{} {}", link.address, link.link.socket)};
  const auto before = silent_.find(key);
  if (link.hangs()) {
    const bool known = before != silent_.end();
    silent_[key] = {link, link.silent_since_ns()};
    if (known) return;
    Event event = event_of(record.header.vm, link);
    event.kind = "hang";
    event.latency_ns = link.link.silent_ns;
    return handler_(event);
  }
  if (link.is(trace::StorageLinkState::gone)) {
    Event event = event_of(record.header.vm, link);
    event.kind = "error";
    handler_(event);
  } else if (before != silent_.end() && link.connected()) {
    Event event = event_of(record.header.vm, link);
    event.kind = "slow";
    event.latency_ns = link.time_ns - std::min(link.time_ns, before->second.silent_since_ns);
    event.text = fmt::format("node {}: {} answers again, after {}", event.node, link.who(),
                             human_duration(static_cast<std::int64_t>(*event.latency_ns)));
    if (*event.latency_ns >= slow_ns_) handler_(event);
  }
  if (before != silent_.end()) silent_.erase(before);
}

void LinkEvents::again() {
  for (const auto& [key, seen] : silent_) {
    Event event = event_of(key.first, seen.link);
    event.kind = "hang";
    event.latency_ns = seen.link.link.silent_ns;
    handler_(event);
  }
}

std::vector<LinkEvents::Line> LinkEvents::lines(const std::vector<storage::ServerLinks::Link>& links) const {
  std::vector<Line> out;
  for (const storage::ServerLinks::Link& link : links) {
    timeline::StorageLink decoded = shown(link);
    const Vm* vm = find_vm_(link.vm);
    if (wanted(link.vm, decoded.nodes)) out.push_back({vm != nullptr ? vm->name() : "", std::move(decoded)});
  }
  return out;
}

bool waits(const LinkEvents::Line& line) {
  return line.link.link.silent_ns >= 1'000'000'000;
}

void print_links(std::ostream& out, const std::vector<LinkEvents::Line>& lines, std::string owner) {
  for (const LinkEvents::Line& line : lines) {
    if (!waits(line)) continue;
    const timeline::StorageLink& link = line.link;
    const std::string vm = "VM " + printable(line.vm, 64);
    if (std::exchange(owner, vm) != vm) out << vm << "\n";
    const std::string facts = link.facts();
    out << "  " << printable(link.who(), 160) << "  node " << printable(link.nodes, 160) << "\n    "
        << printable(link.what()) << (facts.empty() ? "" : ": ") << printable(facts) << "\n";
  }
  out << std::flush;
}

void print_links_json(std::ostream& out, const std::vector<LinkEvents::Line>& lines, std::uint64_t time_ns,
                      std::uint64_t window_ns) {
  for (const auto& [vm, link] : lines) {
    boost::json::object object{{"schema", "vmwhy.io/1"}, {"kind", "stats"},
                               {"time_ns", time_ns},     {"window_ns", window_ns},
                               {"layer", "net"},         {"vm", vm},
                               {"node", link.nodes},     {"oldest_ns", link.link.silent_ns}};
    for (auto& member : facts_of(link)) object[member.key()] = member.value();
    print_json(out, object);
  }
}

}  // namespace vmwhy::vm_iowatch
