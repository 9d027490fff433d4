// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Decodes records of what went on inside of QEMU into a VM's tracks.

#include "timeline/tracks.hpp"
#include "trace/record.hpp"

namespace vmwhy::timeline {

/// @return the call, as it is kept; valid until the next record of the VM.
const QemuCall& add_qemu_call(VmTracks& vm, const trace::RecordView& record);

void add_owner_state(VmTracks& vm, const trace::RecordView& record);

}  // namespace vmwhy::timeline
