// SPDX-License-Identifier: BSD-2-Clause
#include "tests/support/trace_script_io.hpp"

#include "tests/support/io_names.hpp"
#include "trace/link_records.hpp"

namespace vmwhy::test {

using trace::OwnedRecord;

OwnedRecord io(const Line& line) {
  trace::IoSyscall s{};
  s.what = named(line.word(0), {{"failed", 1}, {"short", 2}, {"slow", 3}, {"under_way", 4}});
  s.duration_ns = span(line.number("took", 0.0002));
  s.offset = line.bytes("offset");
  s.length = line.bytes("length", 4096);
  s.result =
      line.has("errno") ? -errno_number(line.value("errno")) : static_cast<std::int64_t>(line.bytes("done"));
  s.rdev = line.device("block");
  s.ino = static_cast<std::uint64_t>(line.number("ino", 17));
  s.pid = 4242;
  s.tid = static_cast<std::uint32_t>(line.number("tid", 4250));
  s.fd = static_cast<std::int32_t>(line.number("fd", 11));
  s.operation = io_operation(line.value("op", "write"));
  return trace::make_record(
      at(line.time), line.vm(), s,
      trace::join_text({line.value("path", "/srv/d.qcow2"), line.value("call", "pwrite64")}));
}

OwnedRecord block_failure(const Line& line) {
  trace::IoBlock b{};
  b.sector = line.bytes("sector");
  b.length = line.bytes("length", 4096);
  b.dev = line.device("block");
  b.error = static_cast<std::uint32_t>(errno_number(line.value("errno", "EIO")));
  b.operation = io_operation(line.value("op", "write"));
  return trace::make_record(at(line.time), 0, b,
                            trace::join_text({line.value("disk"), line.value("status")}));
}

OwnedRecord io_stats(const Line& line) {
  trace::IoStats s{};
  s.layer = named(line.word(0), {{"guest", 1}, {"syscall", 2}, {"block", 3}});
  s.window_ns = span(line.number("window", 1));
  s.count = static_cast<std::uint64_t>(line.number("count"));
  s.bytes = line.bytes("bytes", s.count * 4096);
  s.mean_ns = span(line.number("mean"));
  s.max_ns = span(line.number("max"));
  s.oldest_ns = span(line.number("oldest"));
  s.in_flight = static_cast<std::uint32_t>(line.number("in_flight"));
  s.operation = s.count == 0 ? 0 : io_operation(line.value("op", "write"));
  const bool disk = line.word(0) == "block";
  return trace::make_record(
      at(line.time), disk ? 0 : line.vm(), s,
      trace::join_text({disk ? "" : line.value("node", "d0"), line.value("disk"),
                        line.word(0) == "syscall" ? line.value("path", "/srv/d.qcow2") : ""}));
}

OwnedRecord storage_link(const Line& line) {
  trace::StorageLink s{};
  const auto number = [&](const char* key, double other) {
    return static_cast<std::uint64_t>(line.number(key, other));
  };
  const bool tcp = line.value("unix").empty();
  s.state = named(line.word(0), {{"connected", 1}, {"gone", 2}, {"absent", 3}});
  s.silent_ns = span(line.number("silent"));
  s.unread_bytes = line.value("unread").empty() ? UINT64_MAX : number("unread", 0);
  s.unacked_bytes = number("unacked", 0);
  s.last_sent_ns = s.last_received_ns = tcp ? span(line.number("silent")) : UINT64_MAX;
  s.last_ack_ns = tcp ? span(line.number("ack", line.number("silent"))) : UINT64_MAX;
  s.guest_quiet_ns = UINT64_MAX;
  s.retransmitted = number("retransmitted", 0);
  s.sent_again = static_cast<std::uint32_t>(number("sent_again", number("retransmits", 0)));
  s.retransmits = static_cast<std::uint32_t>(number("retransmits", 0));
  s.probes = static_cast<std::uint32_t>(number("probes", 0));
  s.rtt_us = static_cast<std::uint32_t>(number("rtt", 200));
  s.tcp_state = tcp ? 1 : 0;
  s.in_flight =
      line.value("in_flight").empty() ? UINT32_MAX : static_cast<std::uint32_t>(number("in_flight", 0));
  s.flags = (tcp ? trace::kLinkTcp : 0u) | (s.silent_ns >= 5'000'000'000 ? trace::kLinkHangs : 0u) |
            (line.value("window") == "0" ? trace::kLinkWindowClosed : 0u);
  s.server_pid = static_cast<std::uint32_t>(number("pid", 0));
  s.server_state = static_cast<std::uint8_t>(line.value("letter").c_str()[0]);
  s.socket = 77;
  return trace::make_record(
      at(line.time), line.vm(), s,
      trace::join_text({line.value("node", "d0, f0"), line.value("driver", "nbd"),
                        tcp ? line.value("address", "192.0.2.7:10809") : line.value("unix"),
                        line.value("server")}));
}

}  // namespace vmwhy::test
