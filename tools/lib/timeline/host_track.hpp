// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Decodes what the host showed (processes, threads, files, pressure, cgroups, kernel log, log files, sensors,
// losses) into the tracks.

#include "timeline/tracks.hpp"
#include "trace/record.hpp"

namespace vmwhy::timeline {

void add_vm_seen(VmTracks& vm, const trace::RecordView& record);
void add_vm_end(VmTracks& vm, const trace::RecordView& record);
const Process& add_process(VmTracks& vm, const trace::RecordView& record);
const Thread& add_thread(VmTracks& vm, const trace::RecordView& record);
void add_node_file(VmTracks& vm, const trace::RecordView& record);
const Cgroup& add_cgroup(VmTracks& vm, const trace::RecordView& record);
void add_log_tail(VmTracks& vm, const trace::RecordView& record);
const KvmFailure& add_kvm_failure(VmTracks& vm, const trace::RecordView& record);
const KvmExits& add_kvm_exits(VmTracks& vm, const trace::RecordView& record);
const ThreadStall& add_thread_stall(VmTracks& vm, const trace::RecordView& record);
void add_process_signal(VmTracks& vm, const trace::RecordView& record);

/// A pressure record of a VM's cgroup, or of the host.
void add_pressure(Bounded<Pressure>& list, const trace::RecordView& record);
const IoRequest& add_request(VmTracks& vm, const trace::RecordView& record);
void add_block_failure(HostTracks& host, const trace::RecordView& record);
const IoStats& add_io_stats(Bounded<IoStats>& list, const trace::RecordView& record);
void add_kernel_line(HostTracks& host, const trace::RecordView& record);
void add_sensor(SensorMap& sensors, const trace::RecordView& record);
void add_loss(HostTracks& host, const trace::RecordView& record);

}  // namespace vmwhy::timeline
