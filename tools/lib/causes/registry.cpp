// SPDX-License-Identifier: BSD-2-Clause
#include <array>

#include "causes/rules/rules.hpp"

namespace vmwhy::causes {

std::span<const Rule> rules() {
  static constexpr auto kRules = std::to_array<Rule>({
      {"storage-full", 30, judge_storage_full},
      {"storage-device-gone", 40, judge_storage_device_gone},
      {"storage-quota", 25, judge_storage_quota},
      {"storage-thin-full", 30, judge_storage_thin_full},
      {"storage-short-write", 25, judge_storage_short_write},
      {"storage-beyond-end", 35, judge_storage_beyond_end},
      {"storage-discard-failed", 35, judge_storage_discard_failed},
      {"storage-io-error", 20, judge_storage_io_error},
      {"storage-fs-corruption", 35, judge_storage_fs_corruption},
      {"storage-permission", 35, judge_storage_permission},
      {"storage-network", 25, judge_storage_network},
      {"storage-hang", 35, judge_storage_hang},
      {"storage-hang", 35, judge_server_silent},
      {"storage-network", 35, judge_server_unreachable},
      {"storage-network", 36, judge_kernel_client_lost},
      {"storage-thin-full", 36, judge_pool_queues},
      {"storage-slow", 20, judge_storage_slow},
      {"storage-network", 25, judge_network_slow},
      {"qemu-io-stall", 30, judge_qemu_io_stall},
      {"pause-loop", 40, judge_pause_loop},
      {"operator-stop", 10, judge_operator_stop},
      {"snapshot-or-save", 20, judge_snapshot_or_save},
      {"debugger", 40, judge_debugger},
      {"incoming-wait", 10, judge_incoming_wait},
      {"never-started", 10, judge_never_started},
      {"colo", 10, judge_colo},
      {"migration-switchover", 20, judge_migration_switchover},
      {"migration-completed", 25, judge_migration_completed},
      {"migration-failed", 30, judge_migration_failed},
      {"migration-throttle", 20, judge_migration_throttle},
      {"postcopy-paused", 35, judge_postcopy_paused},
      {"guest-panic", 30, judge_guest_panic},
      {"guest-crash-loaded", 30, judge_guest_crash_loaded},
      {"guest-watchdog", 25, judge_guest_watchdog},
      {"guest-shutdown", 25, judge_guest_shutdown},
      {"guest-suspended", 20, judge_guest_suspended},
      {"guest-reset-loop", 20, judge_guest_reset_loop},
      {"guest-triple-fault", 30, judge_guest_triple_fault},
      {"kvm-internal-error", 30, judge_kvm_internal_error},
      {"kvm-internal-error", 30, judge_kvm_failure_seen},
      {"kvm-entry-failed", 30, judge_kvm_entry_failed},
      {"exit-storm", 20, judge_exit_storm},
      {"qemu-exited", 10, judge_qemu_exited},
      {"qemu-killed", 20, judge_qemu_killed},
      {"host-oom-kill", 40, judge_host_oom_kill},
      {"host-memory-failure", 35, judge_host_memory_failure},
      {"qemu-main-loop-blocked", 20, judge_qemu_main_loop_blocked},
      {"host-frozen", 30, judge_host_frozen},
      {"monitor-lost", 20, judge_monitor_lost},
      {"host-suspended", 45, judge_host_suspended},
      {"host-thermal", 15, judge_host_thermal},
      {"host-cpu-contention", 20, judge_host_cpu_contention},
      {"host-cpu-quota", 20, judge_host_cpu_quota},
      {"host-memory-pressure", 20, judge_host_memory_pressure},
      {"qemu-main-loop-blocked", 20, judge_main_thread_blocked},
      {"storage-hang", 35, judge_thread_in_storage_hangs},
      {"storage-slow", 20, judge_thread_in_storage_waited},
  });
  return kRules;
}

}  // namespace vmwhy::causes
