// SPDX-License-Identifier: BSD-2-Clause
#include "trace/block.hpp"

#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace vmwhy::trace {
namespace {

// Below this packing gains nothing worth the reader's work.
constexpr std::size_t kLeastToPack = 128;

}  // namespace

class Packer::Impl {
 public:
  explicit Impl(int level) : context(ZSTD_createCCtx()), level_(level) {
    if (context == nullptr) throw std::bad_alloc();
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() { ZSTD_freeCCtx(context); }

  ZSTD_CCtx* context;
  int level_;
};

Packer::Packer(int level) : impl_(std::make_unique<Impl>(level)) {}
Packer::Packer(Packer&&) noexcept = default;
Packer::~Packer() = default;

std::string Packer::pack(const BlockFacts& facts, std::string_view raw) {
  BlockHeader header{};
  std::copy(kBlockMagic.begin(), kBlockMagic.end(), header.magic.begin());
  header.kind = static_cast<std::uint16_t>(facts.kind);
  header.header_bytes = sizeof header;
  header.raw_bytes = static_cast<std::uint32_t>(raw.size());
  header.records = facts.records;
  header.lost = facts.lost;
  header.first_ns = facts.first_ns;
  header.last_ns = facts.last_ns;
  header.sequence = facts.sequence;

  std::string block(sizeof header + ZSTD_compressBound(raw.size()), '\0');
  const std::size_t packed =
      ZSTD_compressCCtx(impl_->context, block.data() + sizeof header, block.size() - sizeof header,
                        raw.data(), raw.size(), impl_->level_);
  if (raw.size() >= kLeastToPack && ZSTD_isError(packed) == 0 && packed < raw.size()) {
    header.packing = static_cast<std::uint16_t>(Packing::zstd);
    block.resize(sizeof header + packed);
  } else {
    header.packing = static_cast<std::uint16_t>(Packing::none);
    block.resize(sizeof header);
    block += raw;
  }
  header.stored_bytes = static_cast<std::uint32_t>(block.size() - sizeof header);

  std::memcpy(block.data(), &header, sizeof header);
  const std::string_view view = block;
  header.checksum = block_checksum(view.substr(0, sizeof header), view.substr(sizeof header));
  std::memcpy(block.data(), &header, sizeof header);
  header.header_checksum = checksum(view.substr(0, offsetof(BlockHeader, header_checksum)));
  std::memcpy(block.data(), &header, sizeof header);
  return block;
}

std::optional<BlockHeader> parse_block_header(std::string_view bytes) {
  if (bytes.size() < sizeof(BlockHeader) || !bytes.starts_with(kBlockMagic)) return std::nullopt;
  BlockHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.header_checksum != checksum(bytes.substr(0, offsetof(BlockHeader, header_checksum))))
    return std::nullopt;
  if (header.header_bytes < sizeof header || header.header_bytes > kMaxHeaderBytes ||
      header.stored_bytes > kMaxBlockBytes || header.raw_bytes > kMaxBlockBytes)
    return std::nullopt;
  return header;
}

Unpacked unpack(const StoredBlock& block, std::string& raw) {
  switch (static_cast<Packing>(block.header.packing)) {
    case Packing::none:
      if (block.header.raw_bytes != block.payload.size()) return Unpacked::damaged;
      raw.assign(block.payload);
      return Unpacked::ok;
    case Packing::zstd: {
      raw.resize(block.header.raw_bytes);
      const std::size_t got =
          ZSTD_decompress(raw.data(), raw.size(), block.payload.data(), block.payload.size());
      return ZSTD_isError(got) == 0 && got == raw.size() ? Unpacked::ok : Unpacked::damaged;
    }
  }
  return Unpacked::unknown_packing;
}

}  // namespace vmwhy::trace
