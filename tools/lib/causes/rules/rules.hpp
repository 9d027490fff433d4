// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Every rule's function; registry.cpp names their causes.

#include "causes/rule.hpp"

namespace vmwhy::causes {

// asked.cpp
Opinion judge_operator_stop(const Case& c);
Opinion judge_snapshot_or_save(const Case& c);
Opinion judge_debugger(const Case& c);
Opinion judge_incoming_wait(const Case& c);
Opinion judge_never_started(const Case& c);
Opinion judge_colo(const Case& c);

// migration.cpp
Opinion judge_migration_switchover(const Case& c);
Opinion judge_migration_completed(const Case& c);
Opinion judge_migration_failed(const Case& c);
Opinion judge_migration_throttle(const Case& c);
Opinion judge_postcopy_paused(const Case& c);

// guest.cpp
Opinion judge_guest_panic(const Case& c);
Opinion judge_guest_crash_loaded(const Case& c);
Opinion judge_guest_watchdog(const Case& c);
Opinion judge_guest_shutdown(const Case& c);
Opinion judge_guest_suspended(const Case& c);
Opinion judge_guest_reset_loop(const Case& c);
Opinion judge_guest_triple_fault(const Case& c);

// storage_space.cpp: requests that failed for want of space, or seemed to
Opinion judge_storage_full(const Case& c);
Opinion judge_storage_device_gone(const Case& c);
Opinion judge_storage_quota(const Case& c);
Opinion judge_storage_thin_full(const Case& c);
Opinion judge_storage_short_write(const Case& c);
Opinion judge_storage_beyond_end(const Case& c);

// storage_errors.cpp
Opinion judge_storage_discard_failed(const Case& c);
Opinion judge_storage_io_error(const Case& c);
Opinion judge_storage_fs_corruption(const Case& c);
Opinion judge_storage_permission(const Case& c);
Opinion judge_storage_network(const Case& c);
Opinion judge_storage_slow(const Case& c);
Opinion judge_server_silent(const Case& c);
Opinion judge_server_unreachable(const Case& c);
Opinion judge_network_slow(const Case& c);
Opinion judge_qemu_io_stall(const Case& c);
Opinion judge_pause_loop(const Case& c);

// stalls.cpp
Opinion judge_storage_hang(const Case& c);
Opinion judge_kernel_client_lost(const Case& c);
Opinion judge_pool_queues(const Case& c);
Opinion judge_qemu_main_loop_blocked(const Case& c);
Opinion judge_host_frozen(const Case& c);
Opinion judge_monitor_lost(const Case& c);

// ends.cpp: QEMU, KVM and the host
Opinion judge_kvm_internal_error(const Case& c);
Opinion judge_qemu_exited(const Case& c);
Opinion judge_qemu_killed(const Case& c);
Opinion judge_host_oom_kill(const Case& c);
Opinion judge_host_memory_failure(const Case& c);

// thread_stalls.cpp: what the scheduler's probes show
Opinion judge_host_cpu_contention(const Case& c);
Opinion judge_host_cpu_quota(const Case& c);
Opinion judge_host_memory_pressure(const Case& c);
Opinion judge_main_thread_blocked(const Case& c);

// thread_storage.cpp: stalls of threads within the kernel's storage
Opinion judge_thread_in_storage_hangs(const Case& c);
Opinion judge_thread_in_storage_waited(const Case& c);

// host.cpp: what befell the host as a whole
Opinion judge_host_suspended(const Case& c);
Opinion judge_host_thermal(const Case& c);

// kvm.cpp: what KVM's tracepoints show
Opinion judge_kvm_failure_seen(const Case& c);
Opinion judge_kvm_entry_failed(const Case& c);
Opinion judge_exit_storm(const Case& c);

}  // namespace vmwhy::causes
