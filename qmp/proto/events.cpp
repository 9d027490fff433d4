// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/proto/events.hpp"

#include <algorithm>
#include <array>
#include <boost/json/value.hpp>

namespace vmwhy::qmp::proto {
namespace {

namespace json = boost::json;

std::string text(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

std::optional<bool> boolean(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  if (!value || !value->is_bool()) return std::nullopt;
  return value->get_bool();
}

}  // namespace

bool is_rate_limited(std::string_view event_name) {
  static constexpr std::array<std::string_view, 9> kLimited{"BALLOON_CHANGE",
                                                            "BLOCK_IO_ERROR",
                                                            "HV_BALLOON_STATUS_REPORT",
                                                            "MEMORY_DEVICE_SIZE_CHANGE",
                                                            "QUORUM_FAILURE",
                                                            "QUORUM_REPORT_BAD",
                                                            "RTC_CHANGE",
                                                            "VSERPORT_CHANGE",
                                                            event::kWatchdog};
  return std::find(kLimited.begin(), kLimited.end(), event_name) != kLimited.end();
}

BlockIoError read_block_io_error(const json::object& data) {
  return {text(data, "qom-path"), text(data, "device"),     text(data, "node-name"), text(data, "operation"),
          text(data, "action"),   boolean(data, "nospace"), text(data, "reason")};
}

EndOrReset read_end_or_reset(const json::object& data) {
  return {boolean(data, "guest"), text(data, "reason")};
}

std::string read_watchdog_action(const json::object& data) {
  return text(data, "action");
}

GuestPanic read_guest_panic(const json::object& data) {
  GuestPanic out;
  out.action = text(data, "action");
  if (const json::value* info = data.if_contains("info"); info && info->is_object()) {
    out.info = info->get_object();
    out.type = text(out.info, "type");
  }
  return out;
}

std::string read_migration_status(const json::object& data) {
  return text(data, "status");
}

MemoryFailure read_memory_failure(const json::object& data) {
  MemoryFailure out;
  out.recipient = text(data, "recipient");
  out.action = text(data, "action");
  if (const json::value* flags = data.if_contains("flags"); flags && flags->is_object()) {
    out.action_required = boolean(flags->get_object(), "action-required");
    out.recursive = boolean(flags->get_object(), "recursive");
  }
  return out;
}

}  // namespace vmwhy::qmp::proto
