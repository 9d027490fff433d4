// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A record as a line of text and as a JSON object, by the schema. What the schema does not know is shown raw.

#include <boost/json/object.hpp>
#include <optional>
#include <string>

#include "trace/record.hpp"

namespace vmwhy::vm_trace {

/// The schema's name, or "type 300".
std::string type_name(std::uint16_t type);

/// @param realtime_ns  The record's time as CLOCK_REALTIME, where it is known.
std::string text_line(const trace::RecordView& record, std::optional<std::int64_t> realtime_ns);

/// {"time_ns", "time", "type", "vm", the fields by name, "text": {by name}}. Strings may hold any bytes: pass
/// the serialised object through json_safe().
boost::json::object json_object(const trace::RecordView& record, std::optional<std::int64_t> realtime_ns);

}  // namespace vmwhy::vm_trace
