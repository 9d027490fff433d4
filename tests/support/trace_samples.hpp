// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Records and trace files that tests, fuzzers' corpora and benchmarks are made of.

#include <cstdint>
#include <string>
#include <vector>

#include "trace/format.hpp"
#include "trace/reader.hpp"
#include "trace/record.hpp"

namespace vmwhy::test {

/// An exit as a probe will record it: 32 bytes behind the header. Its type is free for tests.
struct SyntheticExit {
  static constexpr trace::RecordType kType = static_cast<trace::RecordType>(0x7f01);
  std::uint32_t vcpu;
  std::uint32_t reason;
  std::uint64_t rip;
  std::uint64_t duration_ns;
  std::uint64_t qualification;
};
static_assert(sizeof(SyntheticExit) == 32);

/// Exits of eight vCPUs as a busy guest makes them: few addresses, few reasons, durations of a long tail.
std::vector<trace::OwnedRecord> synthetic_exits(std::size_t count, std::uint64_t seed = 1);

/// One record of each type of the schema, every field with a value of its own, with text where the type has
/// one.
std::vector<trace::OwnedRecord> one_of_each();

/// Writes a closed trace.
void write_trace(const std::string& path, const std::vector<trace::OwnedRecord>& records);

/// The smallest complete trace, the same bytes each time: header, meta {}, one block of `records`, end.
std::string tiny_trace(const std::vector<trace::OwnedRecord>& records);

/// Everything a reader gives, in order.
std::vector<trace::OwnedRecord> all_records(trace::Reader& reader);

bool same(const trace::RecordView& a, const trace::RecordView& b);

}  // namespace vmwhy::test
