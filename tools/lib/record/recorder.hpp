// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Takes records from sources, hands them to the trace file (if there is one) and to whoever listens (the live
// analysis). Never looks inside one. One thread: the io_context's.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "trace/record.hpp"
#include "trace/writer.hpp"

namespace vmwhy::record {

class Recorder {
 public:
  using Listener = std::function<void(const trace::RecordView&)>;

  /// @param writer  May be null: nothing is stored then.
  Recorder(std::unique_ptr<trace::Writer> writer, Listener listener);

  void add(const trace::OwnedRecord& record) { add(record.view()); }
  void add(const trace::RecordView& record);
  void flush();

  /// Once: the sentence of the first disk error, when recording has ended because of one.
  std::optional<std::string> take_error();

  trace::Writer* writer() { return writer_.get(); }
  std::uint64_t records() const { return records_; }

 private:
  std::unique_ptr<trace::Writer> writer_;
  Listener listener_;
  std::uint64_t records_ = 0;
  bool error_told_ = false;
};

}  // namespace vmwhy::record
