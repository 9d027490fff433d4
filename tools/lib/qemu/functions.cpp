// SPDX-License-Identifier: BSD-2-Clause
#include "qemu/functions.hpp"

namespace vmwhy::qemu {

std::span<const Function> functions() {
  static constexpr Function kFunctions[] = {
      {"vm_stop", Sense::run_state, true},
      {"vm_stop_force_state", Sense::run_state, true},
      {"vm_start", Sense::none, true},
      {"vm_prepare_start", Sense::none, true},
      {"runstate_set", Sense::run_state, true, Sense::new_run_state},
      {"qemu_system_vmstop_request", Sense::run_state, true},
      {"qemu_system_reset_request", Sense::shutdown_cause, true},
      {"qemu_system_shutdown_request", Sense::shutdown_cause, true, Sense::shutdown_cause},
      {"qemu_system_guest_panicked", Sense::none, false},
      {"qemu_system_suspend_request", Sense::none, false},
      {"watchdog_perform_action", Sense::none, false, Sense::none},
      {"migrate_set_state", Sense::migration_status, false, Sense::text},
      {"blk_error_action", Sense::block_error, false},
      {"qapi_event_send_block_io_error", Sense::block_names, false},
      {"save_snapshot", Sense::none, false},
      {"load_snapshot", Sense::none, false},
      {"qmp_stop", Sense::none, false},
      {"qmp_cont", Sense::none, false},
      {"qmp_human_monitor_command", Sense::none, false},
      {"hmp_stop", Sense::none, false},
      {"hmp_cont", Sense::none, false},
  };
  return kFunctions;
}

}  // namespace vmwhy::qemu
