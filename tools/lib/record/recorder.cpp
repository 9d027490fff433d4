// SPDX-License-Identifier: BSD-2-Clause
#include "record/recorder.hpp"

#include <utility>

namespace vmwhy::record {

Recorder::Recorder(std::unique_ptr<trace::Writer> writer, Listener listener)
    : writer_(std::move(writer)), listener_(std::move(listener)) {}

void Recorder::add(const trace::RecordView& record) {
  ++records_;
  // Stored first: what the analysis says about a record can then be found in the file.
  if (writer_) writer_->append(record);
  if (listener_) listener_(record);
}

void Recorder::flush() {
  if (writer_) writer_->flush();
}

std::optional<std::string> Recorder::take_error() {
  if (!writer_ || error_told_) return std::nullopt;
  std::string error = writer_->stats().error;
  if (error.empty()) return std::nullopt;
  error_told_ = true;
  return error;
}

}  // namespace vmwhy::record
