// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One block: payload packed behind its header, and back. Knows nothing of what a payload means. One thread at
// a time.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "trace/format.hpp"

namespace vmwhy::trace {

/// What the maker of a block says of it; the rest of the header follows from the payload.
struct BlockFacts {
  BlockKind kind = BlockKind::records;
  std::uint32_t records = 0;
  std::uint64_t lost = 0;
  std::uint64_t first_ns = 0;
  std::uint64_t last_ns = 0;
  std::uint64_t sequence = 0;
};

class Packer {
 public:
  explicit Packer(int level);
  Packer(Packer&&) noexcept;
  ~Packer();

  /// Header and payload as they go into the file. Stored unpacked where zstd gains nothing.
  /// @param raw  At most kMaxBlockBytes.
  std::string pack(const BlockFacts& facts, std::string_view raw);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// A block as it stands in a file.
struct StoredBlock {
  std::uint64_t offset = 0;
  BlockHeader header{};
  std::string_view bytes;  ///< Header and payload.
  std::string_view payload;
};

/// Whether these 80 bytes are the header of a block whose lengths may be believed.
std::optional<BlockHeader> parse_block_header(std::string_view bytes);

enum class Unpacked { ok, damaged, unknown_packing };

/// The raw payload; allocates at most kMaxBlockBytes.
Unpacked unpack(const StoredBlock& block, std::string& raw);

}  // namespace vmwhy::trace
