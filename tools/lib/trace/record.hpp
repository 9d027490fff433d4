// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One record in memory: the owner of its bytes, and the typed view of its fixed part. Plain values, any
// thread.

#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "trace/records.hpp"

namespace vmwhy::trace {

/// A record as it stands in a block: header, the fixed part's bytes after the header, the text.
/// The views belong to whoever made it (a block, or an OwnedRecord).
struct RecordView {
  RecordHeader header;
  std::string_view fixed;  ///< header.size - 16 bytes.
  std::string_view text;

  RecordType type() const { return static_cast<RecordType>(header.type); }

  /// The fixed part as T. Fields that the record does not have are zero; what T does not know is ignored.
  template <class T>
  T as() const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value{};
    std::memcpy(static_cast<void*>(&value), fixed.data(),
                fixed.size() < sizeof(T) ? fixed.size() : sizeof(T));
    return value;
  }
};

/// A record that owns its bytes: what sources hand to the recorder.
struct OwnedRecord {
  RecordHeader header{};
  std::string fixed;
  std::string text;

  RecordView view() const { return {header, fixed, text}; }
};

/// Makes a record of struct T.
/// @param time_ns  CLOCK_BOOTTIME.
/// @param vm       The VM's number in this trace; 0: the host.
template <class T>
OwnedRecord make_record(std::uint64_t time_ns, std::uint32_t vm, const T& value, std::string text = {}) {
  static_assert(std::is_trivially_copyable_v<T>);
  OwnedRecord record;
  record.header = {time_ns, static_cast<std::uint16_t>(T::kType),
                   static_cast<std::uint16_t>(sizeof(RecordHeader) + sizeof(T)), vm};
  record.fixed.assign(reinterpret_cast<const char*>(&value), sizeof(T));
  record.text = std::move(text);
  return record;
}

/// Joins strings by NUL, as texts of several strings are stored. NULs inside a part become spaces.
std::string join_text(std::initializer_list<std::string_view> parts);

/// The n-th string of a text joined by NUL; empty where there is none. The last field takes no further NUL.
std::string_view text_field(std::string_view text, std::size_t n);

}  // namespace vmwhy::trace
