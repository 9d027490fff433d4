// SPDX-License-Identifier: BSD-2-Clause
#include "timeline/storage_link.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/text.hpp"

namespace vmwhy::timeline {
namespace {

constexpr std::uint32_t kEstablished = 1, kCloseWait = 8;
/// Of a segment that was lost once TCP recovers by itself.
constexpr std::uint32_t kRetransmits = 3;
/// A machine that lives acknowledges within a fraction of a second, whatever its programs do.
constexpr std::uint64_t kNoMachineWaits = 4'000'000'000;
/// What is answered sooner is no silence to speak of.
constexpr std::uint64_t kSilence = 1'000'000'000;

std::string duration(std::uint64_t ns) {
  return human_duration(static_cast<std::int64_t>(std::min<std::uint64_t>(ns, INT64_MAX)));
}

std::string protocol(const std::string& driver) {
  for (const auto& [known, name] : {std::pair{"nbd", "NBD"},
                                    {"iscsi", "iSCSI"},
                                    {"ssh", "SSH"},
                                    {"http", "HTTP"},
                                    {"https", "HTTPS"},
                                    {"nfs", "NFS"}})
    if (driver == known) return name;
  return driver;
}

}  // namespace

bool StorageLink::unacknowledged() const {
  if (!connected() || !has(trace::kLinkTcp) || link.unacked_bytes == 0) return false;
  if (link.retransmits >= kRetransmits || link.probes >= kRetransmits) return true;
  // After losses TCP waits long before it sends again.
  const auto long_ago = [](std::uint64_t ns) { return ns != UINT64_MAX && ns >= kNoMachineWaits; };
  return !has(trace::kLinkWindowClosed) && long_ago(link.last_ack_ns) && long_ago(link.last_sent_ns);
}

bool StorageLink::lossy() const {
  return connected() && has(trace::kLinkTcp) && !has(trace::kLinkWindowClosed) && !stopped() &&
         link.sent_again >= kRetransmits;
}

bool StorageLink::machine_lives() const {
  if (broken()) return false;
  const bool here = link.server_pid != 0 || link.unread_bytes != UINT64_MAX;
  const bool acknowledged = link.unacked_bytes == 0 && link.last_ack_ns != UINT64_MAX &&
                            link.last_ack_ns + kSilence <= link.silent_ns;
  return here || has(trace::kLinkWindowClosed) || acknowledged;
}

std::string StorageLink::who() const {
  std::string out = protocol(driver) + " server " + address;
  if (link.server_pid != 0)
    out += server.empty() ? fmt::format(" (pid {})", link.server_pid)
                          : fmt::format(" ({}, pid {})", server, link.server_pid);
  return out;
}

std::string StorageLink::what() const {
  if (is(trace::StorageLinkState::gone)) return "is not connected any more";
  if (is(trace::StorageLinkState::absent))
    return link.silent_ns != 0 ? "has not been connected for " + duration(link.silent_ns)
                               : "is not connected";
  return link.silent_ns >= kSilence ? "has not answered for " + duration(link.silent_ns) : "is connected";
}

std::string StorageLink::facts() const {
  std::string out;
  const auto add = [&](const std::string& text) { out += (out.empty() ? "" : ", ") + text; };
  if (link.unread_bytes != 0 && link.unread_bytes != UINT64_MAX)
    add(fmt::format("{} bytes unread by it", link.unread_bytes));
  if (link.in_flight != UINT32_MAX && link.in_flight != 0)
    add(fmt::format("{} request{} of the guest under way", link.in_flight, link.in_flight == 1 ? "" : "s"));
  if (has(trace::kLinkTcp) && !is(trace::StorageLinkState::absent)) {
    if (link.unacked_bytes != 0) add(fmt::format("{} bytes not acknowledged", link.unacked_bytes));
    if (has(trace::kLinkWindowClosed)) add("its machine has no room for more (window 0)");
    if (link.retransmits != 0)
      add(fmt::format("sent again {} time{} without an answer", link.retransmits,
                      link.retransmits == 1 ? "" : "s"));
    if (link.probes != 0)
      add(fmt::format("{} probe{} without an answer", link.probes, link.probes == 1 ? "" : "s"));
    if (link.sent_again > link.retransmits)
      add(fmt::format("{} segments sent again meanwhile", link.sent_again));
    if (link.retransmitted > link.sent_again)
      add(fmt::format("{} segments retransmitted in all", link.retransmitted));
    if (link.last_received_ns != UINT64_MAX && connected())
      add(fmt::format("last data from it {} ago", duration(link.last_received_ns)));
    if (link.tcp_state == kCloseWait)
      add("it has closed its side");
    else if (link.tcp_state != kEstablished)
      add(fmt::format("TCP state {}", link.tcp_state));
  }
  const char state = static_cast<char>(link.server_state);
  if (link.server_pid == 0) return out;
  const std::string process = fmt::format("{}process {} ", out.empty() ? "" : "; ", link.server_pid);
  if (state == 'T') return out + process + "is stopped by a signal (T)";
  if (state == 't') return out + process + "is stopped by a tracer (t)";
  if (state == 'D') return out + process + "is in an uninterruptible wait (D)";
  if (state == 'Z') return out + process + "has ended (Z)";
  return out;
}

StorageLink decode_storage_link(const trace::RecordView& record) {
  const auto field = [&](std::size_t n, std::size_t limit) {
    return std::string(trace::text_field(record.text, n).substr(0, limit));
  };
  return {record.header.time_ns, record.as<trace::StorageLink>(), field(0, 512), field(1, 32), field(2, 512),
          field(3, 64)};
}

}  // namespace vmwhy::timeline
