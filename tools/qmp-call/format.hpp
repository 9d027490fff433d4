// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// How qmp-call prints replies and events: text for people, or one JSON object per line. Nothing that QEMU
// sent reaches the terminal unescaped.

#include <boost/json/value.hpp>
#include <iosfwd>
#include <string>
#include <string_view>

#include "qmp/client.hpp"

namespace vmwhy::qmp_call {

/// Indented JSON; a text as its lines, an empty object as nothing.
void print_reply(std::string_view command, const boost::json::value& value, bool json, std::ostream& out);
/// One JSON object with an "error" member: "class" and "desc" of QEMU, or what failed here.
void print_error(std::string_view command, const qmp::Failure& failure, std::ostream& out);
void print_event(const qmp::Event& event, bool json, bool color, std::ostream& out);

/// `value` as JSON over several lines, two blanks per level.
std::string indent(const boost::json::value& value);

}  // namespace vmwhy::qmp_call
