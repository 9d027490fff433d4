// SPDX-License-Identifier: BSD-2-Clause
// What recording and reading cost on synthetic exits (16-byte header, 32 bytes fixed), beside the same
// records as plain rows through zstd -1. CPU time, not wall clock: the figures are per core and hold on a
// busy machine.
#include <zstd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <vector>

#include "../support/temp_dir.hpp"
#include "../support/trace_samples.hpp"
#include "bench.hpp"
#include "trace/reader.hpp"
#include "trace/writer.hpp"

namespace vmwhy::bench {
namespace {

constexpr std::size_t kDistinct = 400'000;
constexpr std::size_t kRounds = 10;
constexpr double kRecords = kDistinct * kRounds;

double cpu_seconds() {
  timespec ts{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
  return static_cast<double>(ts.tv_sec) + static_cast<double>(ts.tv_nsec) / 1e9;
}

// The plain way: rows of a block, zstd -1.
struct Rows {
  static constexpr std::size_t kBlock = 1u << 20;
  std::vector<std::string> blocks;
  double bytes = 0, write_seconds = 0, read_seconds = 0;

  void write(const std::vector<trace::OwnedRecord>& records) {
    const double begin = cpu_seconds();
    std::string open;
    open.reserve(kBlock);
    const auto close = [&] {
      std::string packed(ZSTD_compressBound(open.size()), '\0');
      packed.resize(ZSTD_compress(packed.data(), packed.size(), open.data(), open.size(), 1));
      bytes += static_cast<double>(packed.size());
      blocks.push_back(std::move(packed));
      open.clear();
    };
    for (std::size_t round = 0; round < kRounds; ++round) {
      for (const auto& record : records) {
        open.append(reinterpret_cast<const char*>(&record.header), sizeof record.header);
        open += record.fixed;
        if (open.size() >= kBlock) close();
      }
    }
    if (!open.empty()) close();
    write_seconds = cpu_seconds() - begin;
  }

  std::uint64_t read() {
    const double begin = cpu_seconds();
    std::uint64_t sum = 0;
    std::string raw(kBlock + 64, '\0');
    for (const std::string& block : blocks) {
      const std::size_t size = ZSTD_decompress(raw.data(), raw.size(), block.data(), block.size());
      for (std::size_t at = 0; at + 48 <= size; at += 48) {
        trace::RecordHeader header;
        test::SyntheticExit exit;
        std::memcpy(&header, raw.data() + at, sizeof header);
        std::memcpy(&exit, raw.data() + at + sizeof header, sizeof exit);
        sum += header.time_ns + exit.duration_ns;
      }
    }
    read_seconds = cpu_seconds() - begin;
    return sum;
  }
};

VMWHY_BENCH(trace_file) {
  const test::TempDir dir;
  const std::string path = dir / "exits.vmt";
  const auto records = test::synthetic_exits(kDistinct);
  Rows rows;
  rows.write(records);
  rows.read();

  // A queue that never fills: what is measured is the work, on both threads together.
  double begin = cpu_seconds();
  auto writer = trace::Writer::create(path, {}, {.queue_bytes = std::size_t{1} << 30});
  if (!writer) return;
  for (std::size_t round = 0; round < kRounds; ++round) {
    for (const auto& record : records) (*writer)->append(record.view());
  }
  const auto stats = (*writer)->close();
  const double write_seconds = cpu_seconds() - begin;
  if (!stats) return;
  report.add({.figure = "write rate, one core",
              .value = kRecords / write_seconds,
              .unit = "records/s",
              .goal = 1e6,
              .peer = "rows through zstd -1, in memory",
              .peer_value = kRecords / rows.write_seconds});
  report.add(
      {.figure = "lost records", .value = static_cast<double>(stats->lost), .unit = "records", .goal = 0});
  report.add({.figure = "size",
              .value = static_cast<double>(std::filesystem::file_size(path)) / kRecords,
              .unit = "bytes/record",
              .goal = 8,
              .peer = "rows through zstd -1",
              .peer_value = rows.bytes / kRecords});

  begin = cpu_seconds();
  auto reader = trace::Reader::open(path);
  if (!reader) return;
  std::uint64_t sum = 0;
  (*reader)->for_each([&](const trace::RecordView& record) {
    sum += record.header.time_ns + record.as<test::SyntheticExit>().duration_ns;
  });
  const double read_seconds = cpu_seconds() - begin;
  if (sum == 0 || (*reader)->report().records != static_cast<std::uint64_t>(kRecords)) return;
  report.add({.figure = "read rate, one core",
              .value = kRecords / read_seconds,
              .unit = "records/s",
              .goal = 20e6,
              .peer = "rows through zstd -1, in memory",
              .peer_value = kRecords / rows.read_seconds});
}

// Two types that interleave at random: grouping must not cost more than it wins.
VMWHY_BENCH(trace_interleaved) {
  const test::TempDir dir;
  const std::string path = dir / "mixed.vmt";
  std::vector<trace::OwnedRecord> records;
  for (auto& exit : test::synthetic_exits(kDistinct)) {
    const std::uint64_t time = exit.header.time_ns;
    records.push_back(std::move(exit));
    if (time % 3 == 0)
      records.push_back(
          trace::make_record(time + time % 200, 1,
                             trace::ThreadState{.pid = 4242,
                                                .tid = 4250 + static_cast<std::uint32_t>(time % 8),
                                                .state = 'S',
                                                .role = 2,
                                                .vcpu = static_cast<std::int32_t>(time % 8),
                                                .syscall = 16,
                                                .cpu_ns = time / 2,
                                                .run_delay_ns = time / 50,
                                                .switches = time / 100'000}));
  }
  test::write_trace(path, records);
  std::string rows;
  double packed = 0;
  for (std::size_t i = 0; i < records.size(); ++i) {
    rows.append(reinterpret_cast<const char*>(&records[i].header), sizeof records[i].header);
    rows += records[i].fixed;
    if (rows.size() < Rows::kBlock && i + 1 < records.size()) continue;
    std::string out(ZSTD_compressBound(rows.size()), '\0');
    packed += static_cast<double>(ZSTD_compress(out.data(), out.size(), rows.data(), rows.size(), 1));
    rows.clear();
  }
  const auto count = static_cast<double>(records.size());
  report.add({.figure = "size",
              .value = static_cast<double>(std::filesystem::file_size(path)) / count,
              .unit = "bytes/record",
              .goal = 8,
              .peer = "rows through zstd -1",
              .peer_value = packed / count});
}

}  // namespace
}  // namespace vmwhy::bench
