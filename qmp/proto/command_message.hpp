// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One message to QEMU, taken apart: what a client of a monitor sends.

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <string>
#include <string_view>

#include "qmp/failure.hpp"

namespace vmwhy::qmp::proto {

struct CommandMessage {
  std::string name;
  boost::json::object arguments;
  boost::json::value id;  ///< null if there was none.
  bool out_of_band = false;
};

/// Strings in single quotes, which QEMU reads too, are understood. Never throws.
/// Errors: `malformed` for what is no JSON object, for what is no command, and for what is above the limits
/// of parse_message.
Result<CommandMessage> parse_command(std::string_view text) noexcept;

}  // namespace vmwhy::qmp::proto
