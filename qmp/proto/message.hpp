// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One line of QMP, taken apart. Members that are not known are ignored, events and enum values of a newer
// QEMU pass through as they are. The bytes are hostile: nesting and memory are bounded, nothing throws.

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <string>
#include <string_view>

#include "qmp/failure.hpp"

namespace vmwhy::qmp::proto {

enum class MessageType {
  greeting,
  event,
  return_,
  error,
  unknown,  ///< A JSON object, but none of the above.
};

struct Message {
  MessageType type = MessageType::unknown;
  boost::json::object version;      ///< greeting: the "version" member.
  boost::json::array capabilities;  ///< greeting.
  std::string event;                ///< event: its name.
  boost::json::object data;         ///< event: its data; empty if there was none.
  std::int64_t wall_us = -1;        ///< event: QEMU's stamp, µs since the epoch; -1: none, or QEMU had none.
  boost::json::value id;            ///< return, error: null if there was none.
  boost::json::value value;         ///< return.
  std::string error_class;          ///< error.
  std::string error_text;           ///< error: "desc", untrusted.

  /// greeting: whether `name` is among the capabilities.
  bool offers(std::string_view name) const;
};

/// Deepest nesting accepted; block graphs of long backing chains are the deepest that QEMU sends.
inline constexpr std::size_t kMaxDepth = 256;
/// Most values in one message.
inline constexpr std::size_t kMaxValues = 4u << 20;

/// Errors: `malformed` for what is no JSON object, for invalid UTF-8 and for what is above the limits.
/// Numbers from -2^63 to 2^64-1 are kept exactly, others become doubles.
Result<Message> parse_message(std::string_view line) noexcept;

/// {"execute": COMMAND, "arguments": {...}, "id": ID} and a line end; "exec-oob" for out-of-band execution.
std::string format_command(std::string_view command, const boost::json::object& arguments, std::uint64_t id,
                           bool out_of_band = false);

}  // namespace vmwhy::qmp::proto
