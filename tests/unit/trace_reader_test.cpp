// SPDX-License-Identifier: BSD-2-Clause
// The reader on files that are whole, cut, damaged, growing, from the future, or no trace.
#include "trace/reader.hpp"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstring>
#include <fstream>
#include <random>

#include "../support/temp_dir.hpp"
#include "../support/trace_samples.hpp"
#include "trace/block.hpp"
#include "trace/records_codec.hpp"

namespace vmwhy::trace {
namespace {

std::vector<OwnedRecord> watches(std::uint32_t from, std::uint32_t count) {
  std::vector<OwnedRecord> records;
  for (std::uint32_t i = from; i < from + count; ++i)
    records.push_back(make_record(1'000 + i, 1, Watch{1, i}, i % 5 == 0 ? "with a text" : ""));
  return records;
}

std::string records_block(const std::vector<OwnedRecord>& records, std::uint64_t sequence,
                          std::uint64_t lost = 0) {
  RecordsBuilder builder;
  for (const OwnedRecord& record : records) builder.add(record.view());
  std::string raw;
  builder.encode(raw);
  return Packer(1).pack({.kind = BlockKind::records,
                         .records = builder.records(),
                         .lost = lost,
                         .first_ns = builder.first_ns(),
                         .last_ns = builder.last_ns(),
                         .sequence = sequence},
                        raw);
}

std::string header() {
  return encode_file_header(1'000, 2'000);
}
std::string end_block(std::uint64_t sequence) {
  return Packer(1).pack({.kind = BlockKind::end, .sequence = sequence}, R"({"reason":"closed"})");
}

// Header, three blocks of ten, end.
struct ThreeBlocks {
  std::string bytes = header();
  std::vector<std::size_t> ends;

  ThreeBlocks() {
    for (std::uint32_t i = 0; i < 3; ++i) {
      bytes += records_block(watches(i * 10, 10), i);
      ends.push_back(bytes.size());
    }
    bytes += end_block(3);
  }
};

std::vector<std::uint32_t> numbers(Reader& reader) {
  std::vector<std::uint32_t> out;
  reader.for_each([&](const RecordView& r) { out.push_back(r.as<Watch>().reserved); });
  return out;
}

std::vector<std::uint32_t> counted(std::uint32_t from, std::uint32_t to) {
  std::vector<std::uint32_t> out;
  for (; from < to; ++from) out.push_back(from);
  return out;
}

bool mentions(const ReadReport& report, std::string_view what) {
  for (const auto& note : report.notes) {
    if (note.find(what) != std::string::npos) return true;
  }
  return false;
}

std::unique_ptr<Reader> reader_of(std::string bytes) {
  auto reader = Reader::from_bytes(std::move(bytes));
  EXPECT_TRUE(reader) << to_string(reader.error());
  return reader ? std::move(*reader) : nullptr;
}

TEST(TraceReader, ReadsAWholeFile) {
  const auto reader = reader_of(ThreeBlocks().bytes);
  EXPECT_EQ(numbers(*reader), counted(0, 30));
  const ReadReport& report = reader->report();
  EXPECT_EQ(report.records, 30u);
  EXPECT_EQ(report.blocks, 4u);
  EXPECT_EQ(report.first_ns, 1'000u);
  EXPECT_EQ(report.last_ns, 1'029u);
  EXPECT_TRUE(report.ended);
  EXPECT_EQ(report.damaged_blocks + report.damaged_bytes + report.skipped_blocks + report.lost, 0u);
  EXPECT_TRUE(report.notes.empty());
}

TEST(TraceReader, FileHeaderIsByteExact) {
  const std::string bytes = encode_file_header(0x1122334455667788, 0x0102030405060708);
  const unsigned char expected[40] = {
      0x89, 'V', 'M', 'T', '\r', '\n', 0x1a, '\n', 1,    0,    0,    0,    0, 0, 0, 0, 4, 3, 2, 1,
      48,   0,   0,   0,   0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 8, 7, 6, 5, 4, 3, 2, 1};
  ASSERT_EQ(bytes.size(), 48u);
  EXPECT_EQ(std::memcmp(bytes.data(), expected, sizeof expected), 0);
  const std::uint64_t sum = checksum(bytes.substr(0, 40));
  EXPECT_EQ(std::memcmp(bytes.data() + 40, &sum, 8), 0);
}

TEST(TraceReader, CutAtEveryByteKeepsEveryCompleteBlock) {
  const ThreeBlocks file;
  for (std::size_t length = 0; length <= file.bytes.size(); ++length) {
    const auto reader = Reader::from_bytes(file.bytes.substr(0, length));
    if (length < sizeof(FileHeader)) {
      ASSERT_FALSE(reader);
      EXPECT_EQ(reader.error().code, length == 0 ? ReadErrc::empty : ReadErrc::header_cut);
      continue;
    }
    ASSERT_TRUE(reader);
    std::uint32_t complete = 0;
    for (const std::size_t end : file.ends) complete += end <= length ? 1 : 0;
    EXPECT_EQ(numbers(**reader), counted(0, complete * 10)) << length;
    const ReadReport& report = (*reader)->report();
    EXPECT_EQ(report.ended, length == file.bytes.size());
    std::size_t good = sizeof(FileHeader);
    for (const std::size_t end : file.ends) good = end <= length ? end : good;
    EXPECT_EQ(report.damaged_bytes, report.ended ? 0 : length - good) << length;
    EXPECT_EQ(report.notes.empty(), report.ended);
  }
}

TEST(TraceReader, EachFlippedByteCostsAtMostItsBlock) {
  const ThreeBlocks file;
  for (std::size_t i = 0; i < file.bytes.size(); ++i) {
    for (const int mask : {0x01, 0x80, 0xff}) {
      std::string bytes = file.bytes;
      bytes[i] = static_cast<char>(bytes[i] ^ mask);
      const auto reader = Reader::from_bytes(bytes);
      if (!reader) {
        EXPECT_LT(i, 12u) << "only magic and major version make a file unreadable";
        continue;
      }
      std::vector<std::uint32_t> expected;
      std::size_t begin = sizeof(FileHeader);
      for (std::uint32_t b = 0; b < 3; begin = file.ends[b++]) {
        if (i >= begin && i < file.ends[b]) continue;
        for (std::uint32_t n = b * 10; n < b * 10 + 10; ++n) expected.push_back(n);
      }
      EXPECT_EQ(numbers(**reader), expected) << "byte " << i;
      EXPECT_GE((*reader)->report().damaged_blocks, 1u) << "byte " << i;
    }
  }
}

TEST(TraceReader, FindsTheNextBlockAfterGarbageAndHoles) {
  const ThreeBlocks file;
  std::string bytes = header() + std::string(100'000, '\0') + records_block(watches(0, 10), 0) +
                      std::string(kBlockMagic) + "rubbish" + records_block(watches(10, 10), 1) +
                      records_block(watches(20, 10), 2).substr(0, 120) + records_block(watches(30, 10), 3) +
                      std::string(3 << 20, '\x8a') + end_block(4);
  const auto reader = reader_of(bytes);
  auto expected = counted(0, 20);
  for (const auto n : counted(30, 40)) expected.push_back(n);
  EXPECT_EQ(numbers(*reader), expected);
  EXPECT_TRUE(reader->report().ended);
  EXPECT_EQ(reader->report().damaged_blocks, 4u);
  EXPECT_EQ(reader->report().damaged_bytes, 100'000u + 8 + 7 + 120 + (3u << 20));
  EXPECT_TRUE(mentions(reader->report(), "block 2 is missing"));
}

TEST(TraceReader, AMagicAcrossTheEdgeOfAChunkIsFound) {
  for (std::size_t shift = 0; shift < 10; ++shift) {
    const auto reader =
        reader_of(header() + std::string((1u << 20) - shift, 'x') + records_block(watches(0, 3), 0));
    EXPECT_EQ(numbers(*reader), counted(0, 3)) << shift;
  }
}

TEST(TraceReader, RandomBytesNeverCrash) {
  std::mt19937_64 random(11);
  const ThreeBlocks file;
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = file.bytes;
    if (round % 3 == 0) {
      bytes = header();
      for (std::size_t n = random() % 2000; n > 0; --n) bytes += static_cast<char>(random());
    } else {
      for (std::size_t n = 1 + random() % 20; n > 0; --n)
        bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    const auto reader = Reader::from_bytes(std::move(bytes));
    if (reader) {
      (*reader)->for_each([](const RecordView& r) { ASSERT_LE(r.text.size(), kMaxTextBytes); });
      EXPECT_EQ((*reader)->next_block(), Reader::Step::end);
    }
  }
}

// A block with a good header whose payload was changed afterwards, checksums made right again.
std::string forged(std::string block, std::string_view payload) {
  BlockHeader h;
  std::memcpy(&h, block.data(), sizeof h);
  h.packing = 0;
  h.stored_bytes = h.raw_bytes = static_cast<std::uint32_t>(payload.size());
  block.assign(reinterpret_cast<const char*>(&h), sizeof h);
  h.checksum = block_checksum(block, payload);
  block.assign(reinterpret_cast<const char*>(&h), sizeof h);
  h.header_checksum = checksum(std::string_view(block).substr(0, 72));
  block.assign(reinterpret_cast<const char*>(&h), sizeof h);
  return block + std::string(payload);
}

TEST(TraceReader, AMalformedBlockWithAGoodChecksumIsOnlySkipped) {
  const std::string bytes = header() + forged(records_block(watches(0, 10), 0), "not records at all") +
                            records_block(watches(10, 10), 1) +
                            Packer(1).pack({.kind = BlockKind::meta, .sequence = 2}, "[1]") + end_block(3);
  const auto reader = reader_of(bytes);
  EXPECT_EQ(numbers(*reader), counted(10, 20));
  EXPECT_EQ(reader->report().damaged_blocks, 2u);
}

TEST(TraceReader, UnknownKindsTypesAndPackingsAreSkipped) {
  std::string future = forged(records_block(watches(0, 1), 2), "from the future");
  BlockHeader h;
  std::memcpy(&h, future.data(), sizeof h);
  h.packing = 77;
  std::string head(reinterpret_cast<const char*>(&h), sizeof h);
  h.checksum = block_checksum(head, "from the future");
  head.assign(reinterpret_cast<const char*>(&h), sizeof h);
  h.header_checksum = checksum(std::string_view(head).substr(0, 72));
  head.assign(reinterpret_cast<const char*>(&h), sizeof h);

  OwnedRecord unknown = make_record(5, 1, Watch{1, 2}, "text");
  unknown.header.type = 40'000;
  const std::string bytes = header() + Packer(1).pack({.kind = static_cast<BlockKind>(99)}, "whatever") +
                            records_block({unknown}, 1) + head + "from the future" + end_block(3);
  const auto reader = reader_of(bytes);
  const auto records = test::all_records(*reader);
  ASSERT_EQ(records.size(), 1u);
  EXPECT_TRUE(test::same(records[0].view(), unknown.view()));
  EXPECT_EQ(reader->report().skipped_blocks, 2u);
  EXPECT_EQ(reader->report().damaged_blocks, 0u);
  EXPECT_TRUE(mentions(reader->report(), "kind 99"));
}

TEST(TraceReader, LongerAndShorterStructsAreRead) {
  OwnedRecord longer = make_record(1, 1, VmEnd{7, 1, 3, 0});
  longer.fixed += "new field";
  OwnedRecord shorter = make_record(2, 1, VmEnd{8, 2, 9, 1});
  shorter.fixed.resize(8);
  const auto reader = reader_of(header() + records_block({longer, shorter}, 0) + end_block(1));
  const auto records = test::all_records(*reader);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].view().as<VmEnd>().status, 3);
  EXPECT_EQ(records[0].header.size, 16 + 16 + 9);
  EXPECT_EQ(records[1].view().as<VmEnd>().how, 2u);
  EXPECT_EQ(records[1].view().as<VmEnd>().status, 0) << "what it does not have is zero";
}

TEST(TraceReader, NewerMinorIsReadNewerMajorIsNot) {
  std::string bytes = ThreeBlocks().bytes;
  const auto set_version = [&](std::uint32_t major, std::uint32_t minor, std::uint32_t header_bytes) {
    FileHeader h;
    std::memcpy(&h, bytes.data(), sizeof h);
    h.major = major;
    h.minor = minor;
    h.header_bytes = header_bytes;
    std::memcpy(bytes.data(), &h, sizeof h);
    h.checksum = checksum(std::string_view(bytes).substr(0, 40));
    std::memcpy(bytes.data(), &h, sizeof h);
  };
  set_version(kMajor, kMinor + 1, 64);
  bytes.insert(48, 16, '?');  // A longer header.
  const auto reader = reader_of(bytes);
  EXPECT_EQ(numbers(*reader), counted(0, 30));
  EXPECT_TRUE(reader->report().newer_minor);
  EXPECT_EQ(reader->report().damaged_blocks, 0u);
  set_version(kMajor + 1, 0, 64);
  const auto newer = Reader::from_bytes(bytes);
  ASSERT_FALSE(newer);
  EXPECT_EQ(newer.error().code, ReadErrc::newer_major);
  EXPECT_NE(to_string(newer.error()).find("use a newer vmwhy"), std::string::npos);
}

TEST(TraceReader, LongerBlockHeadersAreRead) {
  const std::string old = records_block(watches(0, 4), 0);
  const std::string payload = old.substr(sizeof(BlockHeader));
  BlockHeader h;
  std::memcpy(&h, old.data(), sizeof h);
  h.header_bytes = 96;
  std::string head(reinterpret_cast<const char*>(&h), sizeof h);
  head.append(16, '+');
  h.checksum = block_checksum(head, payload);
  std::memcpy(head.data(), &h, sizeof h);
  h.header_checksum = checksum(std::string_view(head).substr(0, 72));
  std::memcpy(head.data(), &h, sizeof h);
  const auto reader = reader_of(header() + head + payload + end_block(1));
  EXPECT_EQ(numbers(*reader), counted(0, 4));
  EXPECT_EQ(reader->report().damaged_blocks, 0u);
}

TEST(TraceReader, LossesAreAddedUp) {
  const auto reader = reader_of(header() + records_block(watches(0, 2), 0, 5) + records_block({}, 1, 7) +
                                Packer(1).pack({.kind = BlockKind::end, .lost = 30, .sequence = 2}, "{}"));
  numbers(*reader);
  EXPECT_EQ(reader->report().lost, 42u);
  EXPECT_TRUE(mentions(reader->report(), "lost 42 records"));
}

TEST(TraceReader, MetaBlocksAreMergedKeyByKey) {
  Packer packer(1);
  const auto reader = reader_of(header() + packer.pack({.kind = BlockKind::meta}, R"({"a":1,"b":{"x":1}})") +
                                packer.pack({.kind = BlockKind::meta, .sequence = 1}, R"({"b":2,"c":3})"));
  EXPECT_EQ(reader->next_block(), Reader::Step::meta);
  EXPECT_EQ(reader->meta().size(), 2u);
  EXPECT_EQ(reader->next_block(), Reader::Step::meta);
  EXPECT_EQ(boost::json::serialize(reader->meta()), R"({"a":1,"b":2,"c":3})");
  EXPECT_EQ(reader->next_block(), Reader::Step::end);
}

TEST(TraceReader, AGrowingFileIsFollowedByteByByte) {
  const test::TempDir dir;
  const ThreeBlocks file;
  const std::string path = dir.write("growing.vmt", header());
  auto reader = Reader::open(path);
  ASSERT_TRUE(reader);
  std::vector<std::uint32_t> got;
  std::ofstream out(path, std::ios::app | std::ios::binary);
  for (std::size_t i = sizeof(FileHeader); i < file.bytes.size(); ++i) {
    out.put(file.bytes[i]).flush();
    std::size_t complete = 0;
    for (const std::size_t end : file.ends) complete += end <= i + 1 ? 10 : 0;
    while ((*reader)->next_block() == Reader::Step::records)
      (*reader)->visit([&](const RecordView& r) { got.push_back(r.as<Watch>().reserved); });
    ASSERT_EQ(got.size(), complete) << "after byte " << i;
  }
  EXPECT_EQ(got, counted(0, 30));
  EXPECT_TRUE((*reader)->report().ended);
  EXPECT_EQ((*reader)->report().damaged_blocks, 0u);
  EXPECT_EQ((*reader)->report().damaged_bytes, 0u);
  EXPECT_TRUE((*reader)->report().notes.empty());
}

TEST(TraceReader, BlocksThatOnlyClaimToBeHugeCostNoTime) {
  // Each header says that its block reaches to the end of the file, and each checksum is wrong.
  constexpr std::size_t kBlocks = 20'000;
  std::string bytes = header();
  for (std::size_t i = 0; i < kBlocks; ++i) {
    BlockHeader h{};
    std::memcpy(h.magic.data(), kBlockMagic.data(), 8);
    h.kind = 2;
    h.header_bytes = sizeof h;
    h.stored_bytes = static_cast<std::uint32_t>((kBlocks - i - 1) * sizeof h + 40);
    std::string head(reinterpret_cast<const char*>(&h), sizeof h);
    h.header_checksum = checksum(std::string_view(head).substr(0, 72));
    head.assign(reinterpret_cast<const char*>(&h), sizeof h);
    bytes += head;
  }
  bytes.append(100, '\0');
  const auto reader = reader_of(bytes);
  EXPECT_TRUE(numbers(*reader).empty());
  EXPECT_EQ(reader->report().damaged_bytes, bytes.size() - sizeof(FileHeader));
}

TEST(TraceReader, SaysWhatIsWrongWithAFileThatIsNoTrace) {
  const test::TempDir dir;
  const auto message = [](const std::string& path) {
    const auto reader = Reader::open(path);
    return reader ? std::string("opened") : to_string(reader.error());
  };
  EXPECT_NE(message(dir / "nothing").find("No such file"), std::string::npos);
  EXPECT_NE(message(dir.path().string()).find("it is a directory"), std::string::npos);
  EXPECT_NE(message(dir.write("empty", "")).find("the file is empty"), std::string::npos);
  EXPECT_NE(message(dir.write("text", "hello world")).find("it is not a trace"), std::string::npos);
  EXPECT_NE(message(dir.write("cut", header().substr(0, 20))).find("ends within its header"),
            std::string::npos);
  EXPECT_NE(message("/dev/null").find("it is a device"), std::string::npos);
}

}  // namespace
}  // namespace vmwhy::trace
