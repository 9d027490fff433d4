// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What sort of thing befell a VM. Shared by the timeline, which finds it, and the causes, which explain it.

namespace vmwhy::timeline {

enum class Kind {
  pause,  ///< The VM's CPUs do not run, and QEMU says so.
  stall,  ///< The VM or its QEMU does not get on, and no event says so.
  exit,   ///< QEMU ended.
  event,  ///< The VM goes on, but something of note befell it (a crash-loaded guest, a reset loop).
};

}  // namespace vmwhy::timeline
