// SPDX-License-Identifier: BSD-2-Clause
#include "trace/scanner.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "trace/reader.hpp"

namespace vmwhy::trace {
namespace {

constexpr std::size_t kMaxNotes = 32;
constexpr std::size_t kChunk = 1u << 20;

std::string_view kind_of_file(mode_t mode) {
  if (S_ISDIR(mode)) return "it is a directory";
  if (S_ISFIFO(mode)) return "it is a FIFO";
  if (S_ISSOCK(mode)) return "it is a socket";
  return "it is a device";
}

}  // namespace

std::uint64_t Source::size() const {
  if (!fd_) return bytes_.size();
  struct stat st {};
  return ::fstat(fd_.get(), &st) == 0 ? static_cast<std::uint64_t>(st.st_size) : 0;
}

bool Source::read(std::uint64_t offset, char* to, std::size_t length) const {
  if (!fd_) {
    if (offset > bytes_.size() || bytes_.size() - offset < length) return false;
    std::memcpy(to, bytes_.data() + offset, length);
    return true;
  }
  while (length > 0) {
    const ssize_t got = ::pread(fd_.get(), to, length, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to += got;
    offset += static_cast<std::uint64_t>(got);
    length -= static_cast<std::size_t>(got);
  }
  return true;
}

Result<Source> Scanner::open_file(const std::string& path) {
  // O_NONBLOCK: a FIFO of that name must not hold us.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat st {};
  if (!fd || ::fstat(fd.get(), &st) != 0) {
    const int error = errno;
    std::string_view remedy;
    if (error == ENOENT) remedy = "check the name";
    if (error == EACCES) remedy = "traces are readable by the user who recorded them: use that user or root";
    return system_failure(error, "cannot read " + path, std::string(remedy));
  }
  if (!S_ISREG(st.st_mode))
    return system_failure(EINVAL, "cannot read " + path,
                          fmt::format("{}: name a trace file", kind_of_file(st.st_mode)));
  return Source(std::move(fd));
}

std::optional<Failure> Scanner::read_file_header(const std::string& name) {
  const std::uint64_t size = source_.size();
  const auto failure = [&](ReadErrc code, std::string remedy) {
    return Failure{make_error_code(code), "cannot read " + name, std::move(remedy)};
  };
  if (size == 0) return failure(ReadErrc::empty, "the recording had not begun, or the file was emptied");
  std::string bytes(std::min<std::uint64_t>(size, sizeof(FileHeader)), '\0');
  const bool readable = source_.read(0, bytes.data(), bytes.size());
  if (!readable || !bytes.starts_with(kFileMagic.substr(0, std::min(bytes.size(), kFileMagic.size()))))
    return failure(ReadErrc::not_a_trace, "name a file that qmp-pausewatch -o wrote");
  if (bytes.size() < sizeof(FileHeader))
    return failure(ReadErrc::header_cut,
                   "the recording was cut off before its first block: nothing is in it");
  std::memcpy(&file_header_, bytes.data(), sizeof file_header_);
  if (file_header_.major != kMajor) {
    return failure(ReadErrc::newer_major,
                   fmt::format("it has format version {}.{}, this tool reads {}.x: use a newer vmwhy",
                               file_header_.major, file_header_.minor, kMajor));
  }
  const bool intact =
      file_header_.checksum == checksum(std::string_view(bytes).substr(0, offsetof(FileHeader, checksum))) &&
      file_header_.endian == kEndianMark && file_header_.header_bytes >= sizeof(FileHeader) &&
      file_header_.header_bytes <= kMaxHeaderBytes;
  if (!intact) {
    notes_.emplace_back("the file header is damaged: the time of creation may be wrong");
    ++damaged_blocks_;
    file_header_.header_bytes = sizeof(FileHeader);
    file_header_.minor = kMinor;
  }
  offset_ = file_header_.header_bytes;
  return std::nullopt;
}

bool Scanner::end_here(std::uint64_t tail) {
  tail_bytes_ = tail;
  return false;
}

void Scanner::damage_until(std::uint64_t offset, std::string_view what) {
  ++damaged_blocks_;
  damaged_bytes_ += offset - offset_;
  if (notes_.size() < kMaxNotes)
    notes_.push_back(fmt::format("{} at offset {}: {} bytes skipped", what, offset_, offset - offset_));
  offset_ = offset;
}

bool Scanner::good_header_at(std::uint64_t offset) const {
  char bytes[sizeof(BlockHeader)];
  return source_.read(offset, bytes, sizeof bytes) && parse_block_header({bytes, sizeof bytes}).has_value();
}

// The next offset with a good header; `size` where there is none. Unless `complete_only`, the beginning of a
// header at the end of the file counts too: it may be completed later.
std::uint64_t Scanner::find_block(std::uint64_t from, std::uint64_t size, bool complete_only) const {
  std::string chunk;
  while (from < size) {
    chunk.resize(std::min<std::uint64_t>(kChunk, size - from));
    if (!source_.read(from, chunk.data(), chunk.size())) return size;
    const bool last = from + chunk.size() == size;
    for (std::size_t at = 0; (at = chunk.find(kBlockMagic[0], at)) != std::string::npos; ++at) {
      const std::string_view rest = std::string_view(chunk).substr(at);
      const std::string_view magic = kBlockMagic.substr(0, std::min(rest.size(), kBlockMagic.size()));
      if (!rest.starts_with(magic)) continue;
      if (size - (from + at) < sizeof(BlockHeader)) {
        if (!complete_only) return from + at;
      } else if (good_header_at(from + at)) {
        return from + at;
      }
    }
    // Chunks overlap by a magic less one byte, so that none is cut in two.
    from += last ? chunk.size() : chunk.size() - (kBlockMagic.size() - 1);
  }
  return size;
}

bool Scanner::next(StoredBlock& block) {
  for (;;) {
    const std::uint64_t size = source_.size();
    if (offset_ >= size) return end_here(0);
    const std::uint64_t rest = size - offset_;
    if (ended_at_size_ == size) return end_here(rest);
    ended_at_size_ = UINT64_MAX;
    if (rest < sizeof(BlockHeader)) return end_here(rest);

    buffer_.resize(sizeof(BlockHeader));
    if (!source_.read(offset_, buffer_.data(), buffer_.size())) return end_here(rest);
    const auto header = parse_block_header(buffer_);
    if (!header) {
      damage_until(find_block(offset_ + 1, size, false), "no block begins");
      continue;
    }
    const std::uint64_t total = std::uint64_t{header->header_bytes} + header->stored_bytes;
    if (rest < total) {
      // Still being written, or cut: unless good blocks follow, then its middle is missing.
      const std::uint64_t other = find_block(offset_ + sizeof(BlockHeader), size, true);
      if (other != size) {
        damage_until(other, "a block that is cut");
        continue;
      }
      ended_at_size_ = size;
      return end_here(rest);
    }
    buffer_.resize(total);
    if (!source_.read(offset_, buffer_.data(), buffer_.size())) return end_here(rest);
    const std::string_view bytes = buffer_;
    if (block_checksum(bytes.substr(0, header->header_bytes), bytes.substr(header->header_bytes)) !=
        header->checksum) {
      // Its length can be believed where another block or the end follows. Looking for blocks inside costs
      // time again for each such block, so that is done within a budget.
      hashed_in_vain_ += total;
      const bool length_good = rest == total || good_header_at(offset_ + total);
      const bool skip = length_good || hashed_in_vain_ > size * 4 + kMaxBlockBytes;
      damage_until(skip ? offset_ + total : find_block(offset_ + sizeof(BlockHeader), size, false),
                   "a block with a wrong checksum");
      continue;
    }
    block = {offset_, *header, bytes, bytes.substr(header->header_bytes)};
    offset_ += total;
    tail_bytes_ = 0;
    return true;
  }
}

}  // namespace vmwhy::trace
