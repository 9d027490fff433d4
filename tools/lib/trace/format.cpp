// SPDX-License-Identifier: BSD-2-Clause
#include "trace/format.hpp"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <memory>

namespace vmwhy::trace {

std::uint64_t checksum(std::string_view bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

std::uint64_t block_checksum(std::string_view header, std::string_view payload) {
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(),
                                                                              XXH3_freeState);
  XXH3_64bits_reset(state.get());
  XXH3_64bits_update(state.get(), header.data(), offsetof(BlockHeader, checksum));
  if (header.size() > sizeof(BlockHeader))
    XXH3_64bits_update(state.get(), header.data() + sizeof(BlockHeader), header.size() - sizeof(BlockHeader));
  XXH3_64bits_update(state.get(), payload.data(), payload.size());
  return XXH3_64bits_digest(state.get());
}

std::string encode_file_header(std::int64_t created_realtime_ns, std::uint64_t created_boottime_ns) {
  FileHeader header{};
  std::copy(kFileMagic.begin(), kFileMagic.end(), header.magic.begin());
  header.major = kMajor;
  header.minor = kMinor;
  header.endian = kEndianMark;
  header.header_bytes = sizeof(FileHeader);
  header.created_realtime_ns = created_realtime_ns;
  header.created_boottime_ns = created_boottime_ns;
  std::string bytes(sizeof header, '\0');
  std::memcpy(bytes.data(), &header, sizeof header);
  header.checksum = checksum(std::string_view(bytes).substr(0, offsetof(FileHeader, checksum)));
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

}  // namespace vmwhy::trace
