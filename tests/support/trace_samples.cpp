// SPDX-License-Identifier: BSD-2-Clause
#include "trace_samples.hpp"

#include <cmath>
#include <filesystem>
#include <random>
#include <stdexcept>

#include "trace/block.hpp"
#include "trace/records_codec.hpp"
#include "trace/schema.hpp"
#include "trace/writer.hpp"

namespace vmwhy::test {

using trace::OwnedRecord;

std::vector<OwnedRecord> synthetic_exits(std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::uint64_t> addresses;
  for (int i = 0; i < 40; ++i) addresses.push_back(0xffffffff81000000 + random() % 0x1000000);
  constexpr std::uint32_t kReasons[] = {1, 7, 10, 12, 12, 12, 30, 31, 32, 32, 32, 48, 49};
  std::lognormal_distribution<double> duration(7.3, 0.8);
  std::exponential_distribution<double> gap(1.0 / 900);
  std::geometric_distribution<std::size_t> popular(0.15);
  std::vector<OwnedRecord> records;
  records.reserve(count);
  std::uint64_t now = 5'000'000'000'000;
  for (std::size_t i = 0; i < count; ++i) {
    now += static_cast<std::uint64_t>(gap(random));
    const std::size_t where = popular(random) % addresses.size();
    SyntheticExit exit{};
    exit.vcpu = static_cast<std::uint32_t>(random() % 8);
    exit.reason = kReasons[where % std::size(kReasons)];
    exit.rip = addresses[where];
    exit.duration_ns = static_cast<std::uint64_t>(duration(random));
    exit.qualification = exit.reason == 30 ? 0x3f80008 : exit.reason == 48 ? random() % 0x1000 * 0x1000 : 0;
    records.push_back(trace::make_record(now, 1, exit));
  }
  return records;
}

std::vector<OwnedRecord> one_of_each() {
  std::vector<OwnedRecord> records;
  std::uint64_t time = 1'000'000'000;
  for (const trace::RecordInfo& info : trace::schema()) {
    OwnedRecord record;
    record.header = {time += 1'000'003, static_cast<std::uint16_t>(info.type),
                     static_cast<std::uint16_t>(sizeof(trace::RecordHeader) + info.size), 1};
    for (std::uint16_t i = 0; i < info.size; ++i)
      record.fixed += static_cast<char>('A' + (i + static_cast<int>(info.type)) % 26);
    if (!info.text.empty()) record.text = trace::join_text({info.name, "detail \xc3\xa9", "more\nlines"});
    records.push_back(std::move(record));
  }
  return records;
}

void write_trace(const std::string& path, const std::vector<OwnedRecord>& records) {
  std::filesystem::remove(path);
  auto writer = trace::Writer::create(path, {});
  if (!writer) throw std::runtime_error(to_string(writer.error()));
  for (const OwnedRecord& record : records) (*writer)->append(record.view());
  const auto closed = (*writer)->close();
  if (!closed) throw std::runtime_error(to_string(closed.error()));
}

std::string tiny_trace(const std::vector<OwnedRecord>& records) {
  trace::Packer packer(1);
  trace::RecordsBuilder builder;
  for (const OwnedRecord& record : records) builder.add(record.view());
  std::string raw;
  builder.encode(raw);
  std::string bytes = trace::encode_file_header(1'795'392'807'123'456'789, 5'000'000'000);
  bytes += packer.pack({.kind = trace::BlockKind::meta}, "{}");
  bytes += packer.pack({.kind = trace::BlockKind::records,
                        .records = builder.records(),
                        .first_ns = builder.empty() ? 0 : builder.first_ns(),
                        .last_ns = builder.last_ns(),
                        .sequence = 1},
                       raw);
  bytes += packer.pack({.kind = trace::BlockKind::end, .sequence = 2}, R"({"reason":"closed"})");
  return bytes;
}

std::vector<OwnedRecord> all_records(trace::Reader& reader) {
  std::vector<OwnedRecord> records;
  reader.for_each([&](const trace::RecordView& r) {
    records.push_back({r.header, std::string(r.fixed), std::string(r.text)});
  });
  return records;
}

bool same(const trace::RecordView& a, const trace::RecordView& b) {
  return a.header.time_ns == b.header.time_ns && a.header.type == b.header.type &&
         a.header.size == b.header.size && a.header.vm == b.header.vm && a.fixed == b.fixed &&
         a.text == b.text;
}

}  // namespace vmwhy::test
