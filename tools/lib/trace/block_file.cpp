// SPDX-License-Identifier: BSD-2-Clause
#include "trace/block_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace vmwhy::trace {
namespace {

// An index is a convenience: it stops growing long before it would be a burden.
constexpr std::size_t kMaxIndex = 1u << 20;
// More than an end block takes, in whole pages.
constexpr std::size_t kSpareBytes = 8192;

}  // namespace

void BlockFile::keep_spare() {
  const std::size_t slash = path_.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  spare_ = UniqueFd(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  const std::string bytes(kSpareBytes, '\0');
  if (spare_ && ::pwrite(spare_.get(), bytes.data(), bytes.size(), 0) < 0) spare_.reset();
}

void BlockFile::fail(int error) {
  spare_.reset();

  // The half block goes away where that works; a reader copes with it otherwise.
  if (::ftruncate(fd_.get(), static_cast<off_t>(offset_)) != 0) errno = 0;
  if (!error_.empty()) return;
  error_number_ = error;
  error_ = fmt::format("cannot write {}: {}; recording has ended, what was written before is kept", path_,
                       std::generic_category().message(error));
}

bool BlockFile::put(std::string_view bytes) {
  std::uint64_t at = offset_;
  while (!bytes.empty()) {
    const ssize_t got = ::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      fail(got == 0 ? EIO : errno);
      return false;
    }
    at += static_cast<std::uint64_t>(got);
    bytes.remove_prefix(static_cast<std::size_t>(got));
  }
  offset_ = at;
  return true;
}

bool BlockFile::write(std::string_view bytes) {
  return error_.empty() && put(bytes);
}

bool BlockFile::write_block(BlockFacts facts, std::string_view raw) {
  if (!error_.empty()) return false;
  facts.sequence = sequence_;
  const std::uint64_t offset = offset_;
  if (!put(packer_.pack(facts, raw))) return false;
  ++sequence_;
  ++blocks_;
  if (index_.size() < kMaxIndex)
    index_.push_back(
        {offset, facts.first_ns, facts.last_ns, facts.records, static_cast<std::uint16_t>(facts.kind), 0});
  return true;
}

bool BlockFile::copy_block(const StoredBlock& block) {
  const std::uint64_t offset = offset_;
  if (!write(block.bytes)) return false;
  if (block.header.sequence >= sequence_) sequence_ = block.header.sequence + 1;
  ++blocks_;
  if (index_.size() < kMaxIndex)
    index_.push_back(
        {offset, block.header.first_ns, block.header.last_ns, block.header.records, block.header.kind, 0});
  return true;
}

void BlockFile::finish(std::string_view end_json, std::uint64_t lost) {
  if (error_.empty()) {
    const std::string_view raw(reinterpret_cast<const char*>(index_.data()),
                               index_.size() * sizeof(IndexEntry));
    write_block({.kind = BlockKind::index}, raw);
  }
  put(packer_.pack({.kind = BlockKind::end, .lost = lost, .sequence = sequence_}, end_json));
}

bool BlockFile::close() {
  if (fd_ && ::fsync(fd_.get()) != 0 && errno != EINVAL && errno != EROFS) fail(errno);
  const int fd = fd_.release();
  if (fd >= 0 && ::close(fd) != 0 && errno != EINTR) fail(errno);
  return error_.empty();
}

}  // namespace vmwhy::trace
