// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The bytes of a .vmt file: file header, block header, and what stands in an encoded records block, each as a
// struct with asserted offsets. docs/trace-format.md explains every field. Little-endian hosts only, as the
// file is; a big-endian port would swap here. Plain values, any thread.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace vmwhy::trace {

static_assert(std::endian::native == std::endian::little);

inline constexpr std::string_view kFileMagic{"\x89VMT\r\n\x1a\n", 8};
inline constexpr std::string_view kBlockMagic{"\x8aVMTblk\n", 8};
inline constexpr std::uint32_t kMajor = 1;
inline constexpr std::uint32_t kMinor = 0;
inline constexpr std::uint32_t kEndianMark = 0x01020304;

/// No block has more than this stored, raw, or expanded into rows: what a reader allocates is bounded by it.
inline constexpr std::size_t kMaxBlockBytes = 64u << 20;
/// The longest text of a record that a writer stores.
inline constexpr std::size_t kMaxTextBytes = 16u << 20;
inline constexpr std::size_t kMaxGroups = 255;
/// Headers may grow in later minor versions, up to this.
inline constexpr std::uint32_t kMaxHeaderBytes = 4096;

struct FileHeader {
  std::array<char, 8> magic;
  std::uint32_t major;
  std::uint32_t minor;
  std::uint32_t endian;        ///< kEndianMark.
  std::uint32_t header_bytes;  ///< Where the first block begins.
  std::int64_t created_realtime_ns;
  std::uint64_t created_boottime_ns;
  std::uint64_t checksum;  ///< XXH3-64 of the bytes before it.
};
static_assert(sizeof(FileHeader) == 48);
static_assert(offsetof(FileHeader, major) == 8 && offsetof(FileHeader, endian) == 16);
static_assert(offsetof(FileHeader, created_realtime_ns) == 24 && offsetof(FileHeader, checksum) == 40);

enum class BlockKind : std::uint16_t { meta = 1, records = 2, stacks = 3, index = 4, end = 5 };
enum class Packing : std::uint16_t { none = 0, zstd = 1 };

struct BlockHeader {
  std::array<char, 8> magic;
  std::uint16_t kind;          ///< A BlockKind.
  std::uint16_t packing;       ///< A Packing of the payload.
  std::uint32_t header_bytes;  ///< Where the payload begins.
  std::uint32_t stored_bytes;  ///< The payload in the file.
  std::uint32_t raw_bytes;     ///< The payload unpacked.
  std::uint32_t records;
  std::uint32_t reserved;
  std::uint64_t lost;      ///< Records that the writer dropped since the block before.
  std::uint64_t first_ns;  ///< The least and the greatest time of its records and of those lost; 0: none.
  std::uint64_t last_ns;
  std::uint64_t sequence;         ///< Of the block in the recording, from 0.
  std::uint64_t checksum;         ///< XXH3-64 of bytes 0..63, then of all from byte 80 to the payload's end.
  std::uint64_t header_checksum;  ///< XXH3-64 of bytes 0..71.
};
static_assert(sizeof(BlockHeader) == 80);
static_assert(offsetof(BlockHeader, kind) == 8 && offsetof(BlockHeader, stored_bytes) == 16);
static_assert(offsetof(BlockHeader, records) == 24 && offsetof(BlockHeader, lost) == 32);
static_assert(offsetof(BlockHeader, first_ns) == 40 && offsetof(BlockHeader, sequence) == 56);
static_assert(offsetof(BlockHeader, checksum) == 64 && offsetof(BlockHeader, header_checksum) == 72);

enum class Layout : std::uint32_t { rows = 0, columns = 1 };

/// At the beginning of a records block's raw payload.
struct RecordsHead {
  std::uint32_t groups;       ///< GroupHead structs that follow; at most kMaxGroups.
  std::uint32_t order_bytes;  ///< After them: one byte per record, its group; 0 where there is one group.
};
static_assert(sizeof(RecordsHead) == 8);

/// The records of one type and size in a block.
struct GroupHead {
  std::uint16_t type;
  std::uint16_t size;  ///< RecordHeader::size of each.
  std::uint32_t records;
  std::uint32_t layout;      ///< A Layout.
  std::uint32_t data_bytes;  ///< Its bytes after the order; groups follow each other.
};
static_assert(sizeof(GroupHead) == 16);

/// Before the fixed part and the text of a record in Layout::rows.
struct RowHead {
  std::uint64_t time_ns;
  std::uint32_t vm;
  std::uint32_t text_bytes;
};
static_assert(sizeof(RowHead) == 16);

/// How one column of Layout::columns is stored. n records, w bytes of width.
enum class ColumnCoding : std::uint8_t {
  constant = 0,    ///< w bytes: the value of all.
  plain = 1,       ///< w planes of n bytes: first the lowest byte of each value, then the next.
  delta = 2,       ///< The same of zigzag(value - value before it); the first is against 0.
  dictionary = 3,  ///< One byte k; k + 1 values of w bytes; n bytes: the index of each.
};

struct IndexEntry {
  std::uint64_t offset;  ///< Of the block's header in the file.
  std::uint64_t first_ns;
  std::uint64_t last_ns;
  std::uint32_t records;
  std::uint16_t kind;
  std::uint16_t reserved;
};
static_assert(sizeof(IndexEntry) == 32);

/// Fills magic, version, mark and checksum.
std::string encode_file_header(std::int64_t created_realtime_ns, std::uint64_t created_boottime_ns);

/// XXH3-64 of a string.
std::uint64_t checksum(std::string_view bytes);

/// XXH3-64 of a block: `header` is header_bytes long.
std::uint64_t block_checksum(std::string_view header, std::string_view payload);

}  // namespace vmwhy::trace
