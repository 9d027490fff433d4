// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Decodes records of QMP (messages, links, withheld questions) into a VM's tracks.

#include "clock/clock.hpp"
#include "timeline/tracks.hpp"
#include "trace/record.hpp"

namespace vmwhy::timeline {

/// What a record turned out to be, for whoever opens and closes incidents. At most one is set. The pointers
/// are valid until the next record of the VM.
struct QmpFact {
  const QmpEvent* event = nullptr;
  const Status* status = nullptr;
  const Migration* migration = nullptr;
  bool reply = false;         ///< Any reply came, on `link`.
  std::uint64_t sent_ns = 0;  ///< When its command had been sent.
  std::uint32_t link = 0;
};

/// An event that another monitor of the same VM brought already is dropped: every monitor brings every event.
QmpFact add_qmp_message(VmTracks& vm, const trace::RecordView& record, const clock::ClockMap& clocks);

/// @return the change, as it is kept.
const LinkChange& add_qmp_link(VmTracks& vm, const trace::RecordView& record);

/// @return the change, as it is kept.
const Peer& add_qmp_peer(VmTracks& vm, const trace::RecordView& record);

void add_qmp_withheld(VmTracks& vm, const trace::RecordView& record);

}  // namespace vmwhy::timeline
