// SPDX-License-Identifier: BSD-2-Clause
// Storage servers that QEMU itself speaks to, by the sockets between them: one that does not answer, and one
// that cannot be reached.
#include <fmt/format.h>

#include <algorithm>

#include "causes/rules/rules.hpp"
#include "causes/rules/storage_common.hpp"
#include "core/text.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {
namespace {

using timeline::StorageLink;

std::string duration(std::uint64_t ns) {
  return human_duration(static_cast<std::int64_t>(std::min<std::uint64_t>(ns, INT64_MAX)));
}

/// The last look in the incident at which a server was silent, of the one that was silent longest.
const StorageLink* silent_link(const Case& c) {
  const StorageLink* out = nullptr;
  for (const StorageLink& link : c.vm.storage_links) {
    if (!link.hangs() || link.time_ns < c.begin || link.time_ns > c.until) continue;
    if (out == nullptr || link.link.silent_ns >= out->link.silent_ns) out = &link;
  }
  return out;
}

std::string last_node(const std::string& nodes) {
  const std::size_t comma = nodes.rfind(", ");
  return comma == std::string::npos ? nodes : nodes.substr(comma + 2);
}

Finding finding_of(const Case& c, const StorageLink& link) {
  Finding finding;
  finding.confidence = Confidence::proven;
  finding.details["node"] = link.nodes;
  finding.details["transport"] = link.driver;
  finding.details["address"] = link.address;
  finding.details["silent_ns"] = link.link.silent_ns;
  if (link.link.unread_bytes != UINT64_MAX) finding.details["unread_bytes"] = link.link.unread_bytes;
  if (link.link.server_pid != 0) finding.details["server_pid"] = link.link.server_pid;
  const StorageLink* first = nullptr;
  for (const StorageLink& each : c.vm.storage_links)
    if (first == nullptr && each.hangs() && each.address == link.address && each.time_ns >= c.begin)
      first = &each;
  if (first != nullptr && first->time_ns != link.time_ns) finding.evidence.push_back(link_evidence(*first));
  finding.evidence.push_back(link_evidence(link));
  add_monitor_evidence(c, finding);
  return finding;
}

/// For who cannot mend the server: the guest gets errors, or pauses, in place of a wait without end.
std::string give_up(const Case& c, const StorageLink& link) {
  return "to give the server up, at the price of I/O errors: " +
         qmp_call(c, fmt::format(R"(yank instances='[{{"type":"block-node","node-name":"{}"}}]')",
                                 last_node(link.nodes)));
}

}  // namespace

Evidence link_evidence(const StorageLink& link) {
  const std::string facts = link.facts();
  return {link.time_ns, "net",
          fmt::format("{} (node {}) {}{}{}", link.who(), link.nodes, link.what(), facts.empty() ? "" : ": ",
                      facts)};
}

Opinion judge_server_silent(const Case& c) {
  const StorageLink* link = c.is_stall() ? silent_link(c) : nullptr;
  if (link == nullptr || link->broken()) return nothing();
  Finding finding = finding_of(c, *link);
  finding.summary = fmt::format("the storage server of node '{}' does not answer: {} {}",
                                last_node(link->nodes), link->who(), link->what());
  if (link->stopped()) {
    const char state = static_cast<char>(link->link.server_state);
    finding.summary += fmt::format("; it is stopped ({})", state);
    finding.details["server_state"] = std::string(1, state);
    finding.remedy.push_back(
        fmt::format("let the server run: kill -CONT {}; the VM goes on by itself", link->link.server_pid));
  } else {
    finding.remedy.push_back(
        link->link.server_pid != 0
            ? fmt::format("see what process {} waits for, and mend it; the VM goes on by itself",
                          link->link.server_pid)
        : link->machine_lives()
            ? "look at the server: its machine answers, it does not; the VM goes on by itself"
            : "look at the server, and at the way to it; the VM goes on by itself");
    finding.not_proved.push_back({"why the server does not answer", "only its silence was seen"});
  }
  if (!link->machine_lives()) {
    finding.confidence = Confidence::likely;
    finding.not_proved.push_back(
        {"that the way back from the server is whole",
         link->link.unacked_bytes == 0
             ? "its machine acknowledged all that was sent, and nothing was sent since"
             : "some of what was sent is not acknowledged yet"});
  }
  finding.remedy.push_back(
      "do not send stop meanwhile: it waits for these requests, and blocks QEMU's main loop");
  if (link->driver == "nbd") finding.remedy.push_back(give_up(c, *link));
  return found(std::move(finding));
}

Opinion judge_server_unreachable(const Case& c) {
  const StorageLink* link = c.is_stall() ? silent_link(c) : nullptr;
  if (link == nullptr) return nothing();
  if (!link->broken()) {
    if (link->has(trace::kLinkTcp) && link->machine_lives())
      return against("storage-network",
                     fmt::format("the connection to {} stands, and its machine answers", link->who()));
    return nothing();
  }
  Finding finding = finding_of(c, *link);
  if (!link->connected()) {
    finding.summary = fmt::format("{} {}, and requests of node '{}' wait for it", link->who(), link->what(),
                                  last_node(link->nodes));
  } else if (link->unacknowledged()) {
    finding.summary =
        fmt::format("nothing of what QEMU sends to {} is acknowledged: it {}", link->who(), link->what());
  } else {
    finding.summary =
        fmt::format("the way to {} loses what is sent: it {}, and {} segments had to be sent again meanwhile",
                    link->who(), link->what(), link->link.sent_again);
    finding.details["sent_again"] = link->link.sent_again;
    if (link->link.unacked_bytes == 0) {
      finding.confidence = Confidence::likely;
      finding.not_proved.push_back(
          {"that the answer was lost",
           "the server's machine has acknowledged all at last, and the server was not seen"});
    }
  }
  finding.remedy.push_back(
      "look at the server and the way to it: ping, ss -ti, firewalls; the VM goes on by itself");
  if (link->driver == "nbd" && link->connected()) finding.remedy.push_back(give_up(c, *link));
  return found(std::move(finding));
}

void add_link_of_error(const Case& c, std::uint64_t told_ns, Finding& finding) {
  const StorageLink* gone = nullptr;
  const StorageLink* stands = nullptr;
  for (const StorageLink& link : c.vm.storage_links) {
    if (link.time_ns + 2 * timeline::kSecond < told_ns || link.time_ns > told_ns + 2 * timeline::kSecond)
      continue;
    const auto& chain = c.storage.chain;
    const bool of_node =
        std::ranges::any_of(chain, [&](const std::string& node) { return contains_word(link.nodes, node); });
    if (!of_node) continue;
    if (!link.connected() && gone == nullptr) gone = &link;
    if (link.connected() && link.time_ns >= told_ns) stands = &link;
  }
  if (gone != nullptr) {
    finding.confidence = Confidence::proven;
    finding.summary = fmt::format("{} failed: {}; the connection to {} is lost", request_text(c),
                                  c.storage.reason, gone->who());
    finding.details["address"] = gone->address;
    finding.evidence.push_back(link_evidence(*gone));
    finding.not_proved.clear();
    finding.not_proved.push_back(
        {"why the connection is lost", "the server, and the way to it, were not seen"});
  } else if (stands != nullptr) {
    finding.summary =
        fmt::format("{} failed: {}; the connection to {} stands, so that the server itself answered so",
                    request_text(c), c.storage.reason, stands->who());
    finding.details["address"] = stands->address;
    finding.evidence.push_back(link_evidence(*stands));
    finding.not_proved.clear();
    finding.not_proved.push_back({"why the server answered with an error", "only its own log tells"});
    finding.remedy = {"look at the server's log and at what it stores to; then: " + qmp_call(c, "cont")};
  }
}

void add_link_quality(const Case& c, Finding& finding) {
  const StorageLink* first = nullptr;
  const StorageLink* last = nullptr;
  for (const StorageLink& link : c.vm.storage_links) {
    const bool inside = link.time_ns >= c.begin && link.time_ns <= c.until + timeline::kSecond;
    if (!inside || !link.connected() || !link.has(trace::kLinkTcp) ||
        !contains_word(link.nodes, c.storage.node))
      continue;
    if (first == nullptr || first->link.socket != link.link.socket) first = &link;
    last = &link;
  }
  if (first == nullptr || first == last) return;
  const std::uint64_t again =
      last->link.retransmitted - std::min(first->link.retransmitted, last->link.retransmitted);
  finding.details["retransmitted"] = again;
  finding.evidence.push_back(
      {last->time_ns, "net",
       fmt::format("{}: {} segments were retransmitted meanwhile, a round trip takes {}", last->who(), again,
                   duration(std::uint64_t{last->link.rtt_us} * 1000))});
}

}  // namespace vmwhy::causes
