// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One incident with the facts that belong to it, prepared once for all rules: its window of time, the I/O
// error that stands first in it, the block node that failed, and the file or device under that node.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "causes/verdict.hpp"
#include "timeline/timeline.hpp"

namespace vmwhy::causes {

/// The failing request, as far as QMP tells, and what it was to.
struct StorageFacts {
  const timeline::QmpEvent* error = nullptr;  ///< The first BLOCK_IO_ERROR that belongs to the incident.
  bool after_stop = false;   ///< It came after the STOP: something else stopped the VM first.
  std::uint64_t errors = 0;  ///< How many belong to the incident, this one included.
  std::string node;          ///< Node name; with -drive, the device.
  std::string operation;     ///< "read" or "write"; QMP calls a discard and a flush "write" too.
  std::string reason;        ///< strerror text: for people, localised, and no contract.
  bool nospace = false;
  bool nospace_said = false;                 ///< The member was there at all.
  std::vector<std::string> chain;            ///< The node and those below it, as far as QEMU tells.
  std::vector<std::string> drivers;          ///< Their drivers, in the same order.
  const timeline::NodeFile* file = nullptr;  ///< What the chain ends in, as the host showed it at the pause.
  bool file_of_node = false;         ///< `file` was matched to the node, not taken for want of another.
  std::vector<std::string> devices;  ///< Kernel names of devices under it, top first: "dm-3", "sda1", "sda".

  /// The first failed system call that fits the error: in time, to that file, with that operation and errno.
  const timeline::IoRequest* request = nullptr;
  /// The first write to that file of which only a part was done, just before the error.
  const timeline::IoRequest* short_write = nullptr;
  std::uint64_t kernel_failures = 0;  ///< Failed calls to that file from then to the incident's end.
  /// The first failed block layer request on a disk under it, just before the error.
  const timeline::BlockFailure* block = nullptr;

  /// QEMU's own look at this error, errno included; and how many it saw from then on, also those that QMP
  /// did not tell of.
  const timeline::QemuCall* in_qemu = nullptr;
  std::uint64_t qemu_errors = 0;

  bool injected = false;  ///< QEMU's blkdebug is in the chain, which makes errors up.

  bool has_driver(std::string_view driver) const;
  /// QEMU's own network driver in the chain ("nbd", "rbd", …): no file of this host is under the node. "" if
  /// none is known.
  std::string_view network_driver() const;
  /// errno of `request`, or 0.
  int error_number() const { return request != nullptr ? request->error() : 0; }
  /// Likewise; else the one that QEMU's block layer saw.
  int known_error() const;
};

struct Case {
  const timeline::Timeline& timeline;
  const timeline::VmTracks& vm;
  const timeline::Incident& incident;
  std::uint64_t from;  ///< Nothing earlier belongs to the incident.
  std::uint64_t begin;
  std::uint64_t until;  ///< Its end, or now.
  std::string run_state;
  StorageFacts storage;

  bool is_pause() const { return incident.topic == timeline::Topic::pause; }
  bool is_stall() const { return incident.topic == timeline::Topic::stall; }
  bool is_exit() const { return incident.topic == timeline::Topic::exit; }
  /// An I/O error stopped the VM, or was reported to the guest, or a loop is made of such pauses.
  bool is_storage_error() const;
  bool paused_in(std::string_view state) const { return is_pause() && run_state == state; }

  /// The first event of that name that belongs to what came before or with the incident's begin; if there is
  /// none, the first within `after_ns` behind its begin.
  const timeline::QmpEvent* event(std::string_view name, std::uint64_t after_ns = 1'000'000'000) const;
  /// The last MIGRATION status up to `until`; "" if there was none.
  std::string migration_status() const;
  /// Text of QEMU's stderr as collected with the incident; "" if there is none.
  std::string_view log_text() const;
  const timeline::Log* log() const;
  /// The last look at the process at the incident.
  const timeline::Process* process() const;
  /// Kernel log lines from `before_ns` before the begin to `after_ns` after it (or to the end of the
  /// incident).
  std::vector<const timeline::KernelLine*> kernel_lines(std::uint64_t before_ns,
                                                        std::uint64_t after_ns) const;
};

Case make_case(const timeline::Timeline& timeline, const timeline::Incident& incident);

/// Finds the I/O error, the node and the file of an incident.
StorageFacts find_storage(const Case& c);
/// Finds the function of QEMU that saw the error, where it was followed.
void find_in_qemu(const Case& c, StorageFacts& facts);
/// Finds the system call and the block layer request behind the error, where they were recorded.
void find_requests(const Case& c, StorageFacts& facts);

}  // namespace vmwhy::causes
