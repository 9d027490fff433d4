// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Every record type with its fields: stored in a trace's meta so that a file explains itself, and used by
// `vm-trace cat` to print records. Made from the structs of records.hpp by offsetof.

#include <boost/json/array.hpp>
#include <cstdint>
#include <span>
#include <string_view>

#include "trace/records.hpp"

namespace vmwhy::trace {

struct FieldInfo {
  std::string_view name;
  std::uint16_t offset;      ///< From the beginning of the fixed part.
  std::uint16_t width;       ///< Bytes.
  char kind;                 ///< 'u' unsigned, 'i' signed, 's' zero-padded string, 'c' letter.
  std::string_view unit;     ///< "ns", "bytes", "us", "" …
  std::string_view meaning;  ///< "1 begin, 2 end" where the value is one of a list.
};

struct RecordInfo {
  RecordType type;
  std::string_view name;  ///< The struct's, in snake_case.
  std::uint16_t size;     ///< Bytes of the fixed part.
  std::span<const FieldInfo> fields;
  std::string_view text;  ///< The names of the text's strings, "command, message"; empty: it has none.
};

std::span<const RecordInfo> schema();
/// nullptr for a type that this version does not know.
const RecordInfo* find_record_info(std::uint16_t type);
boost::json::array schema_json();

}  // namespace vmwhy::trace
