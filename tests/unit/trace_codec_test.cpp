// SPDX-License-Identifier: BSD-2-Clause
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <random>

#include "../support/trace_samples.hpp"
#include "trace/block.hpp"
#include "trace/columns.hpp"
#include "trace/records_codec.hpp"
#include "trace/schema.hpp"

namespace vmwhy::trace {
namespace {

using test::SyntheticExit;

std::string encoded(const std::vector<OwnedRecord>& records) {
  RecordsBuilder builder;
  for (const OwnedRecord& record : records) EXPECT_TRUE(builder.add(record.view()));
  std::string raw;
  builder.encode(raw);
  return raw;
}

void expect_round_trip(const std::vector<OwnedRecord>& records) {
  RecordsBlock block;
  ASSERT_TRUE(block.decode(encoded(records), static_cast<std::uint32_t>(records.size())));
  std::size_t i = 0;
  block.visit([&](const RecordView& got) {
    ASSERT_LT(i, records.size());
    EXPECT_TRUE(test::same(got, records[i].view())) << "record " << i;
    ++i;
  });
  EXPECT_EQ(i, records.size());
}

OwnedRecord raw_record(std::uint16_t type, std::string fixed, std::string text = {}, std::uint64_t time = 7) {
  OwnedRecord record;
  record.header = {time, type, static_cast<std::uint16_t>(sizeof(RecordHeader) + fixed.size()), 3};
  record.fixed = std::move(fixed);
  record.text = std::move(text);
  return record;
}

TEST(TraceCodec, EveryRecordTypeComesBack) {
  const auto records = test::one_of_each();
  EXPECT_EQ(records.size(), schema().size());
  expect_round_trip(records);
}

TEST(TraceCodec, ExitsComeBackFromColumns) {
  expect_round_trip(test::synthetic_exits(5000));
}

TEST(TraceCodec, AnEmptyBlockIsABlock) {
  expect_round_trip({});
}

TEST(TraceCodec, OrderIsKeptWhenTypesInterleave) {
  std::mt19937 random(3);
  std::vector<OwnedRecord> records;
  for (std::uint32_t i = 0; i < 3000; ++i) {
    const std::uint64_t time = 1'000'000 - i;  // Times run backwards: order is not told by time.
    switch (random() % 4) {
      case 0:
        records.push_back(make_record(time, i % 3, Watch{1, i}));
        break;
      case 1:
        records.push_back(
            make_record(time, 1, QmpMessage{.sent_ns = i, .link = i}, "stop" + std::to_string(i)));
        break;
      case 2:
        records.push_back(make_record(time, 1, KernelLog{i, 3, 0}, i % 2 == 0 ? "" : "a line"));
        break;
      default:
        records.push_back(make_record(time, 2, SyntheticExit{i % 4, i, i * 77ull, i, 0}));
    }
  }
  expect_round_trip(records);
}

TEST(TraceCodec, EverySizeOfFixedPartComesBack) {
  std::mt19937 random(5);
  for (std::size_t size = 0; size < 70; ++size) {
    std::vector<OwnedRecord> records;
    for (int i = 0; i < 40; ++i) {
      std::string fixed(size, '\0');
      for (char& c : fixed) c = static_cast<char>(random());
      records.push_back(raw_record(300, std::move(fixed), {}, random()));
    }
    expect_round_trip(records);
  }
}

TEST(TraceCodec, ExtremeValuesComeBackInEveryCoding) {
  std::vector<OwnedRecord> records;
  for (std::uint64_t i = 0; i < 400; ++i) {
    const std::uint64_t wild = i % 2 == 0 ? 0 : UINT64_MAX;
    records.push_back(make_record(wild - i, static_cast<std::uint32_t>(wild),
                                  SyntheticExit{UINT32_MAX, static_cast<std::uint32_t>(i * 0x01000193u),
                                                i * i * i, i % 3 == 0 ? UINT64_MAX : i, i << 40}));
  }
  expect_round_trip(records);
}

TEST(TraceCodec, ExactlyTwoHundredFiftySixValuesFitADictionary) {
  for (const std::uint32_t distinct : {1u, 2u, 255u, 256u, 257u}) {
    std::vector<OwnedRecord> records;
    for (std::uint32_t i = 0; i < 5000; ++i)
      records.push_back(make_record(i, 1, Watch{(i * 7919u % distinct) * 0x9E3779B9u, 0}));
    expect_round_trip(records);
  }
}

TEST(TraceCodec, ATextTooLongIsRefused) {
  RecordsBuilder builder;
  EXPECT_FALSE(builder.add(raw_record(32, "", std::string(kMaxTextBytes + 1, 'x')).view()));
  EXPECT_TRUE(builder.empty());
  EXPECT_TRUE(builder.add(raw_record(32, "", std::string(kMaxTextBytes, 'x')).view()));
}

TEST(TraceCodec, ABlockTakesAtMost255Groups) {
  RecordsBuilder builder;
  for (std::uint16_t i = 0; i < kMaxGroups; ++i) ASSERT_TRUE(builder.add(raw_record(i, "").view()));
  EXPECT_FALSE(builder.add(raw_record(1000, "").view()));
  EXPECT_TRUE(builder.add(raw_record(5, "").view())) << "a group that is there already";
}

TEST(TraceCodec, MalformedPayloadsAreRefused) {
  auto records = test::one_of_each();
  for (auto& exit : test::synthetic_exits(20)) records.push_back(exit);
  const std::string good = encoded(records);
  const auto count = static_cast<std::uint32_t>(records.size());
  RecordsBlock block;
  EXPECT_FALSE(block.decode(good, count + 1));
  EXPECT_FALSE(block.decode(good, count - 1));
  EXPECT_FALSE(block.decode(good + "x", count));
  for (std::size_t i = 0; i < good.size(); ++i) EXPECT_FALSE(block.decode(good.substr(0, i), count)) << i;
  std::size_t visited = 0;
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0xff);
    if (block.decode(bad, count)) block.visit([&](const RecordView& r) { visited += r.text.size(); });
  }
  SUCCEED() << visited;
}

TEST(TraceCodec, APayloadThatWouldGrowBeyondTheLimitIsRefused) {
  // Constant columns take no room: four billion records in a few bytes.
  const std::uint32_t many = 0xfffffff0;
  RecordsHead head{1, 0};
  GroupHead group{1, 48, many, static_cast<std::uint32_t>(Layout::columns), 0};
  std::string columns;
  columns += '\0';
  columns.append(8, '\0');
  for (int i = 0; i < 9; ++i) columns.append(5, '\0');
  group.data_bytes = static_cast<std::uint32_t>(columns.size());
  std::string raw(reinterpret_cast<const char*>(&head), sizeof head);
  raw.append(reinterpret_cast<const char*>(&group), sizeof group);
  raw += columns;
  RecordsBlock block;
  EXPECT_FALSE(block.decode(raw, many));
}

TEST(TraceCodec, PackedBlocksComeBackAndFlippedBitsAreSeen) {
  Packer packer(1);
  const std::string raw(5000, 'a');
  const std::string bytes =
      packer.pack({.kind = BlockKind::records, .records = 9, .lost = 2, .sequence = 4}, raw);
  EXPECT_LT(bytes.size(), 200u);
  const auto header = parse_block_header(bytes);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->raw_bytes, 5000u);
  EXPECT_EQ(header->lost, 2u);
  StoredBlock block{0, *header, bytes, std::string_view(bytes).substr(header->header_bytes)};
  std::string back;
  EXPECT_EQ(unpack(block, back), Unpacked::ok);
  EXPECT_EQ(back, raw);
  for (std::size_t bit = 0; bit < sizeof(BlockHeader) * 8; ++bit) {
    std::string bad = bytes;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_FALSE(parse_block_header(bad)) << "bit " << bit;
  }
}

TEST(TraceSchema, DescribesEveryTypeOnceAndFindsIt) {
  for (const RecordInfo& info : schema()) {
    EXPECT_EQ(find_record_info(static_cast<std::uint16_t>(info.type)), &info);
    for (const FieldInfo& field : info.fields) EXPECT_FALSE(field.meaning.empty()) << info.name << field.name;
  }
  EXPECT_EQ(find_record_info(0), nullptr);
  EXPECT_EQ(find_record_info(9999), nullptr);
  const auto* node = find_record_info(50);
  ASSERT_NE(node, nullptr);
  EXPECT_EQ(node->name, "node_file");
  EXPECT_EQ(node->fields[2].name, "rdev");
  EXPECT_EQ(node->fields[2].offset, offsetof(NodeFile, rdev));
  EXPECT_EQ(schema_json().size(), schema().size());
}

}  // namespace
}  // namespace vmwhy::trace
