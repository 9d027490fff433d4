// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// How the VM came to stand, by the functions of QEMU that were followed.

#include <string>
#include <string_view>

#include "causes/case.hpp"
#include "causes/verdict.hpp"

namespace vmwhy::causes {

/// What stopped the VM.
struct StopPath {
  /// The first call that asked for it, in whichever thread: vm_stop, …; null: it was not seen.
  const timeline::QemuCall* origin = nullptr;
  /// The monitor's function that led there, on the same thread: hmp_stop, qmp_stop; null: none did.
  const timeline::QemuCall* command = nullptr;
  bool by_hmp = false;  ///< The command came by HMP.

  explicit operator bool() const { return origin != nullptr; }
};
StopPath find_stop(const Case& c);

/// Whether calls of that function were told of from `since` until the incident: it was found in this VM's
/// QEMU, was followed by then, and no call was lost.
bool follows(const Case& c, std::string_view function, std::uint64_t since);

/// It stopped, and neither `stop` of a monitor nor a job of QEMU's own led there.
bool stopped_by_no_monitor(const Case& c, const StopPath& path);

/// "vm_stop(paused) ← handle_hmp_command ← readline_handle_byte, in thread 812".
Evidence call_evidence(const timeline::QemuCall& call);

/// The first reset that the guest's doing led to in [from, until].
const timeline::QemuCall* guest_reset(const timeline::VmTracks& vm, std::uint64_t from, std::uint64_t until);

}  // namespace vmwhy::causes
