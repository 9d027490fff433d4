// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Records of one type and size, turned from rows into columns and back (Layout::columns of format.hpp): the
// time, the VM, then every 4 bytes of the fixed part and every single byte of its rest. Each column takes the
// coding that looks smallest on a sample; zstd does the rest. Knows no record type. Plain functions, any
// thread.

#include <cstdint>
#include <string>
#include <string_view>

namespace vmwhy::trace {

/// Appends `records` rows of `size` bytes (RecordHeader and fixed part; size >= 16, records >= 1) as columns.
void encode_columns(std::string_view rows, std::uint16_t size, std::uint32_t records, std::string& out);

/// Fills rows from columns; the headers get `type` and `size`.
/// @param rows  records * size bytes, allocated by the caller.
/// @return false if `data` is not exactly such columns.
bool decode_columns(std::string_view data, std::uint16_t type, std::uint16_t size, std::uint32_t records,
                    char* rows);

}  // namespace vmwhy::trace
