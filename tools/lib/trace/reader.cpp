// SPDX-License-Identifier: BSD-2-Clause
#include "trace/reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

#include "trace/records_codec.hpp"
#include "trace/scanner.hpp"

namespace vmwhy::trace {
namespace {

constexpr std::size_t kMaxNotes = 64;
// All meta blocks of a file together: they are kept for as long as it is read.
constexpr std::size_t kMaxMetaBytes = 16u << 20;

class ReadCategory final : public boost::system::error_category {
 public:
  const char* name() const noexcept override { return "vmwhy.trace.read"; }
  std::string message(int value) const override {
    switch (static_cast<ReadErrc>(value)) {
      case ReadErrc::empty:
        return "the file is empty";
      case ReadErrc::not_a_trace:
        return "it is not a trace";
      case ReadErrc::newer_major:
        return "it was written by another major version";
      case ReadErrc::header_cut:
        return "the file ends within its header";
    }
    return "unknown error";
  }
};

}  // namespace

const boost::system::error_category& read_category() noexcept {
  static const ReadCategory category;
  return category;
}

boost::system::error_code make_error_code(ReadErrc e) noexcept {
  return {static_cast<int>(e), read_category()};
}

class Reader::Impl {
 public:
  explicit Impl(Source source) : scanner_(std::move(source)) {}

  std::optional<Failure> begin(const std::string& name) {
    auto failure = scanner_.read_file_header(name);
    if (failure) return failure;
    report_.major = scanner_.file_header().major;
    report_.minor = scanner_.file_header().minor;
    report_.newer_minor = report_.minor > kMinor;
    if (report_.newer_minor)
      note(fmt::format("written by a newer version ({}.{}): what it added is not shown", report_.major,
                       report_.minor));
    return std::nullopt;
  }

  Step next_block() {
    records_.clear();
    StoredBlock block;
    while (scanner_.next(block)) {
      ++report_.blocks;
      check_sequence(block.header.sequence);
      report_.lost += std::min(block.header.lost, UINT64_MAX - report_.lost);
      switch (static_cast<BlockKind>(block.header.kind)) {
        case BlockKind::meta:
          if (read_meta(block)) return Step::meta;
          break;
        case BlockKind::records:
          if (read_records(block)) return Step::records;
          break;
        case BlockKind::index:
          break;
        case BlockKind::end:
          read_end(block);
          break;
        default:
          skip(fmt::format("blocks of kind {} are not known and were skipped", block.header.kind));
      }
    }
    finish();
    return Step::end;
  }

  RecordsBlock records_;
  boost::json::object meta_;
  ReadReport report_;

 private:
  void note(std::string text) {
    if (notes_.size() < kMaxNotes && std::find(notes_.begin(), notes_.end(), text) == notes_.end())
      notes_.push_back(std::move(text));
  }

  void skip(std::string text) {
    ++report_.skipped_blocks;
    note(std::move(text));
  }

  void damaged(const StoredBlock& block, std::string_view what) {
    ++bad_contents_;
    bad_bytes_ += block.bytes.size();
    note(fmt::format("{} at offset {}: {} bytes skipped", what, block.offset, block.bytes.size()));
  }

  void check_sequence(std::uint64_t sequence) {
    if (sequence > next_sequence_) {
      const std::uint64_t missing = sequence - next_sequence_;
      note(missing == 1 ? fmt::format("block {} is missing", next_sequence_)
                        : fmt::format("blocks {} to {} are missing", next_sequence_, sequence - 1));
    }
    next_sequence_ = sequence == UINT64_MAX ? sequence : std::max(next_sequence_, sequence + 1);
  }

  // False: damaged, or in a packing that is not known; counted then.
  bool unpacked(const StoredBlock& block, std::string& raw) {
    switch (unpack(block, raw)) {
      case Unpacked::ok:
        return true;
      case Unpacked::unknown_packing:
        skip(fmt::format("blocks of packing {} cannot be unpacked and were skipped", block.header.packing));
        return false;
      case Unpacked::damaged:
        damaged(block, "a block that cannot be unpacked");
        return false;
    }
    return false;
  }

  std::optional<boost::json::object> read_json(const StoredBlock& block) {
    std::string raw;
    if (!unpacked(block, raw)) return std::nullopt;
    boost::system::error_code error;
    boost::json::parse_options options;
    options.max_depth = 32;
    boost::json::value value = boost::json::parse(raw, error, {}, options);
    if (error || !value.is_object()) {
      damaged(block, "a block whose JSON is malformed");
      return std::nullopt;
    }
    return std::move(value.get_object());
  }

  bool read_meta(const StoredBlock& block) {
    if (block.header.raw_bytes > kMaxMetaBytes - meta_bytes_) {
      note("there is more meta data than is ever written; the rest of it is not read");
      return false;
    }
    auto object = read_json(block);
    if (!object) return false;
    meta_bytes_ += block.header.raw_bytes;
    for (auto& member : *object) meta_.insert_or_assign(member.key(), std::move(member.value()));
    return true;
  }

  void read_end(const StoredBlock& block) {
    const auto object = read_json(block);
    report_.ended = true;
    if (!object) return;
    const auto* error = object->if_contains("error");
    if (error != nullptr && error->is_string())
      note(fmt::format("recording ended early: {}", std::string_view(error->get_string()).substr(0, 512)));
    const auto* reason = object->if_contains("reason");
    if (reason != nullptr && reason->is_string() && reason->get_string() == "recovered")
      note("the file was recovered from a damaged one");
  }

  bool read_records(const StoredBlock& block) {
    std::string raw;
    if (!unpacked(block, raw)) return false;
    if (!records_.decode(std::move(raw), block.header.records)) {
      records_.clear();
      damaged(block, "a block whose records are malformed");
      return false;
    }
    report_.records += block.header.records;
    if (block.header.records != 0 || block.header.lost != 0) {
      const bool first = report_.first_ns == 0 && report_.last_ns == 0;
      report_.first_ns = first ? block.header.first_ns : std::min(report_.first_ns, block.header.first_ns);
      report_.last_ns = std::max(report_.last_ns, block.header.last_ns);
    }
    return true;
  }

  void finish() {
    report_.file_bytes = scanner_.size();
    const std::uint64_t tail = scanner_.tail_bytes();
    report_.damaged_blocks = scanner_.damaged_blocks() + bad_contents_ + (tail != 0 ? 1 : 0);
    report_.damaged_bytes = scanner_.damaged_bytes() + bad_bytes_ + tail;
    report_.notes = scanner_.notes();
    report_.notes.insert(report_.notes.end(), notes_.begin(), notes_.end());
    if (report_.lost != 0) report_.notes.push_back(fmt::format("the recorder lost {} records", report_.lost));
    if (tail != 0)
      report_.notes.push_back(fmt::format("the last block is cut: {} bytes of it are there", tail));
    if (!report_.ended)
      report_.notes.emplace_back(
          "recording was not ended properly, or it still runs: the last second may be missing");
  }

  Scanner scanner_;
  std::vector<std::string> notes_;
  std::uint64_t bad_contents_ = 0, bad_bytes_ = 0;
  std::uint64_t next_sequence_ = 0;
  std::size_t meta_bytes_ = 0;
};

Reader::Reader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Reader::~Reader() = default;

Result<std::unique_ptr<Reader>> Reader::open(const std::string& path) {
  auto source = Scanner::open_file(path);
  if (!source) return source.error();
  auto impl = std::make_unique<Impl>(std::move(*source));
  if (auto failure = impl->begin(path)) return *failure;
  return std::unique_ptr<Reader>(new Reader(std::move(impl)));
}

Result<std::unique_ptr<Reader>> Reader::from_bytes(std::string bytes) {
  auto impl = std::make_unique<Impl>(Source(std::move(bytes)));
  if (auto failure = impl->begin("these bytes")) return *failure;
  return std::unique_ptr<Reader>(new Reader(std::move(impl)));
}

Reader::Step Reader::next_block() {
  return impl_->next_block();
}

void Reader::visit(const std::function<void(const RecordView&)>& visitor) const {
  impl_->records_.visit(visitor);
}

const boost::json::object& Reader::meta() const {
  return impl_->meta_;
}
const ReadReport& Reader::report() const {
  return impl_->report_;
}

void Reader::for_each(const std::function<void(const RecordView&)>& visitor) {
  for (;;) {
    const Step step = next_block();
    if (step == Step::end) return;
    if (step == Step::records) visit(visitor);
  }
}

}  // namespace vmwhy::trace
