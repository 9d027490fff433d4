// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Joins the records of all sources into tracks (one set per VM, one for the host) and incidents. No I/O, no
// clock, no judgement. Order is by each fact's own time: QMP events by QEMU's stamp, converted through the
// trace's clock snapshots, with their arrival kept beside it. Memory is bounded whatever comes.

#include <boost/json/object.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "clock/clock.hpp"
#include "timeline/incidents.hpp"
#include "timeline/tracks.hpp"
#include "trace/record.hpp"

namespace vmwhy::timeline {

class Timeline {
 public:
  /// Members of later documents override those of earlier ones.
  void add_meta(const boost::json::object& meta);

  /// Records in the order in which they were recorded.
  void add(const trace::RecordView& record);

  const boost::json::object& meta() const { return meta_; }
  const HostTracks& host() const { return host_; }
  const std::map<std::uint32_t, VmTracks>& vms() const { return vms_; }
  /// A VM that no record named has empty tracks.
  const VmTracks& vm(std::uint32_t id) const;
  const clock::ClockMap& clocks() const { return clocks_; }
  const Incidents& incidents() const { return incidents_; }
  Incidents& incidents() { return incidents_; }

  std::uint64_t first_ns() const { return first_ns_; }
  /// The latest time of any record.
  std::uint64_t now_ns() const { return now_ns_; }
  std::uint64_t ignored_vms() const { return ignored_vms_; }
  bool ended() const { return ended_; }

 private:
  void add_of_vm(const trace::RecordView& record);
  void add_of_tap(VmTracks& vm, const trace::RecordView& record);
  void add_of_host(const trace::RecordView& record);
  void add_snapshot(const trace::RecordView& record);
  VmTracks* track(const trace::RecordView& record);
  /// Drops what is older than any rule reads.
  void forget();

  boost::json::object meta_;
  HostTracks host_;
  std::map<std::uint32_t, VmTracks> vms_;
  Incidents incidents_;
  clock::ClockMap clocks_;
  std::vector<trace::ClockSnapshot> snapshots_;
  std::uint64_t first_ns_ = 0, now_ns_ = 0;
  std::uint64_t forgotten_ns_ = 0;
  std::uint64_t ignored_vms_ = 0;
  bool ended_ = false;
};

}  // namespace vmwhy::timeline
