// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Typed views of the events that tell of a pause, a stall or an end. Each reads what is there: a member that
// is missing or of another type is empty, a value that is not known stays the text that QEMU sent. All texts
// are untrusted.

#include <boost/json/object.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace vmwhy::qmp::proto {

namespace event {
inline constexpr std::string_view kStop = "STOP";
inline constexpr std::string_view kResume = "RESUME";
inline constexpr std::string_view kReset = "RESET";
inline constexpr std::string_view kShutdown = "SHUTDOWN";
inline constexpr std::string_view kPowerdown = "POWERDOWN";
inline constexpr std::string_view kSuspend = "SUSPEND";
inline constexpr std::string_view kSuspendDisk = "SUSPEND_DISK";
inline constexpr std::string_view kWakeup = "WAKEUP";
inline constexpr std::string_view kWatchdog = "WATCHDOG";
inline constexpr std::string_view kGuestPanicked = "GUEST_PANICKED";
inline constexpr std::string_view kGuestCrashloaded = "GUEST_CRASHLOADED";
inline constexpr std::string_view kGuestPvshutdown = "GUEST_PVSHUTDOWN";
inline constexpr std::string_view kMemoryFailure = "MEMORY_FAILURE";
inline constexpr std::string_view kMigration = "MIGRATION";
inline constexpr std::string_view kMigrationPass = "MIGRATION_PASS";
inline constexpr std::string_view kBlockIoError = "BLOCK_IO_ERROR";
inline constexpr std::string_view kBlockJobError = "BLOCK_JOB_ERROR";
inline constexpr std::string_view kBlockWriteThreshold = "BLOCK_WRITE_THRESHOLD";
inline constexpr std::string_view kBlockImageCorrupted = "BLOCK_IMAGE_CORRUPTED";
inline constexpr std::string_view kJobStatusChange = "JOB_STATUS_CHANGE";
inline constexpr std::string_view kDeviceUnplugGuestError = "DEVICE_UNPLUG_GUEST_ERROR";
}  // namespace event

/// Whether QEMU limits this event to one a second (for some of them per device): it may come late, and
/// several may become one. BLOCK_IO_ERROR is among them since QEMU 9.2.
bool is_rate_limited(std::string_view event_name);

/// BLOCK_IO_ERROR
struct BlockIoError {
  std::string qom_path;         ///< QEMU 9.2 and later.
  std::string device;           ///< Empty with -blockdev.
  std::string node_name;        ///< May be missing.
  std::string operation;        ///< "read" or "write"; discards and flushes say "write".
  std::string action;           ///< "ignore", "report", "stop".
  std::optional<bool> nospace;  ///< Missing where the device keeps no io-status.
  std::string reason;           ///< strerror() of QEMU's errno: for people.
};
BlockIoError read_block_io_error(const boost::json::object& data);

/// RESET and SHUTDOWN
struct EndOrReset {
  std::optional<bool> guest;  ///< The guest asked for it.
  std::string reason;         ///< A ShutdownCause, e.g. "guest-reset"; QEMU 4.0 and later.
};
EndOrReset read_end_or_reset(const boost::json::object& data);

/// WATCHDOG: "reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi".
std::string read_watchdog_action(const boost::json::object& data);

/// GUEST_PANICKED and GUEST_CRASHLOADED
struct GuestPanic {
  std::string action;        ///< "pause", "poweroff", "run".
  std::string type;          ///< "hyper-v", "s390", …; empty: no information.
  boost::json::object info;  ///< What the guest told.
};
GuestPanic read_guest_panic(const boost::json::object& data);

/// MIGRATION: a MigrationStatus, e.g. "postcopy-paused".
std::string read_migration_status(const boost::json::object& data);

/// MEMORY_FAILURE
struct MemoryFailure {
  std::string recipient;  ///< "hypervisor" or "guest".
  std::string action;     ///< "ignore", "inject", "fatal", "reset".
  std::optional<bool> action_required;
  std::optional<bool> recursive;
};
MemoryFailure read_memory_failure(const boost::json::object& data);

}  // namespace vmwhy::qmp::proto
