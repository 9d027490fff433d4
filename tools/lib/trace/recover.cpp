// SPDX-License-Identifier: BSD-2-Clause
#include <sys/stat.h>

#include <boost/json.hpp>

#include "trace/block_file.hpp"
#include "trace/create_file.hpp"
#include "trace/reader.hpp"
#include "trace/records_codec.hpp"
#include "trace/scanner.hpp"

namespace vmwhy::trace {
namespace {

bool same_file(const std::string& a, const std::string& b) {
  struct stat x {
  }, y{};
  return ::stat(a.c_str(), &x) == 0 && ::stat(b.c_str(), &y) == 0 && x.st_dev == y.st_dev &&
         x.st_ino == y.st_ino;
}

// Whether the block goes into the mended file. The old index and end no longer hold; what a reader would
// count as damaged is left behind; what this version does not know is kept.
bool worth_keeping(const StoredBlock& block) {
  const auto kind = static_cast<BlockKind>(block.header.kind);
  if (kind == BlockKind::index || kind == BlockKind::end) return false;
  std::string raw;
  const Unpacked result = unpack(block, raw);
  if (result != Unpacked::ok) return result == Unpacked::unknown_packing;
  if (kind == BlockKind::records) return RecordsBlock().decode(std::move(raw), block.header.records);
  if (kind != BlockKind::meta) return true;
  boost::system::error_code error;
  const auto value = boost::json::parse(raw, error);
  return !error && value.is_object();
}

}  // namespace

Result<ReadReport> recover(const std::string& from, const std::string& to) {
  auto reader = Reader::open(from);
  if (!reader) return reader.error();
  (*reader)->for_each([](const RecordView&) {});
  const ReadReport report = (*reader)->report();

  auto source = Scanner::open_file(from);
  if (!source) return source.error();
  Scanner scanner(std::move(*source));
  if (auto failure = scanner.read_file_header(from)) return *failure;
  if (same_file(from, to))
    return system_failure(EEXIST, "cannot write " + to,
                          "it is the damaged trace itself: choose another name");
  auto created = create_trace_file(to);
  if (!created) return created.error();

  BlockFile file(std::move(created->fd), to, 1);
  const FileHeader& old = scanner.file_header();
  file.write(encode_file_header(old.created_realtime_ns, old.created_boottime_ns));
  StoredBlock block;
  // Losses that an old end block tells of are told by the new one.
  std::uint64_t lost = 0;
  while (file.error().empty() && scanner.next(block)) {
    if (worth_keeping(block))
      file.copy_block(block);
    else
      lost += block.header.lost;
  }
  boost::json::object facts{{"damaged_blocks", report.damaged_blocks},
                            {"damaged_bytes", report.damaged_bytes},
                            {"was_ended", report.ended}};
  file.write_block({.kind = BlockKind::meta},
                   boost::json::serialize(boost::json::object{{"recovered", facts}}));
  file.finish(boost::json::serialize(boost::json::object{
                  {"reason", "recovered"}, {"records", report.records}, {"lost", report.lost}}),
              lost);
  if (!file.close()) return system_failure(file.error_number(), "cannot write " + to, "free space there");
  return report;
}

}  // namespace vmwhy::trace
