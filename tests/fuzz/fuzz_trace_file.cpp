// SPDX-License-Identifier: BSD-2-Clause
// Any bytes as a trace: nothing crashes, hangs or grows. So that damage behind the checksums is reached too,
// inputs that begin with '!' are taken as payloads: their block headers are made here and are right.
#include <cstdint>
#include <string>

#include "clock/clock.hpp"
#include "core/text.hpp"
#include "trace/block.hpp"
#include "trace/reader.hpp"
#include "trace/schema.hpp"

namespace {

using namespace vmwhy;

// Payloads stand one after the other behind a kind, a count and their length.
std::string with_headers(std::string_view input) {
  std::string bytes = trace::encode_file_header(1, 1);
  std::uint64_t sequence = 0;
  while (input.size() >= 4) {
    const auto at = [&](std::size_t i) { return static_cast<std::uint8_t>(input[i]); };
    const auto kind = static_cast<trace::BlockKind>(at(0) % 8);
    const std::uint32_t records = at(1);
    const std::size_t length = std::min<std::size_t>(at(2) | (at(3) << 8), input.size() - 4);
    bytes += trace::Packer(1).pack({.kind = kind, .records = records, .sequence = sequence++},
                                   input.substr(4, length));
    input.remove_prefix(4 + length);
  }
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  auto reader =
      trace::Reader::from_bytes(input.starts_with('!') ? with_headers(input.substr(1)) : std::string(input));
  if (!reader) return 0;
  clock::ClockMap clock;
  std::uint64_t records = 0;
  (*reader)->for_each([&](const trace::RecordView& record) {
    ++records;
    if (record.type() == trace::RecordType::clock_snapshot) {
      clock.add(record.as<trace::ClockSnapshot>());
      clock.from_realtime_us(static_cast<std::int64_t>(record.header.time_ns), record.header.time_ns);
      clock.to_realtime_ns(record.header.time_ns);
    }
    trace::text_field(record.text, 2);
    printable(record.text);
    json_safe(record.text);
  });
  if ((*reader)->report().records != records) __builtin_trap();
  if ((*reader)->next_block() != trace::Reader::Step::end) __builtin_trap();
  return 0;
}
