// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What a tap hears, as records of a trace. Secrets are masked, whoever asks.

#include "tap/tap.hpp"
#include "trace/record.hpp"

namespace vmwhy::tap {

/// @param link  The number that the monitor has in the trace.
/// @param json  masked_json(message).
trace::OwnedRecord message_record(std::uint32_t vm, std::uint32_t link, const qmp::proto::Overheard& message,
                                  const std::string& json);
trace::OwnedRecord peer_record(std::uint32_t vm, std::uint32_t link, const Wire& wire, Change change,
                               std::uint64_t time_ns, std::uint64_t waited_ns);

}  // namespace vmwhy::tap
