// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The tracks: all facts on one VM, and all facts on the host. Plain data; qmp_track and host_track fill it,
// incidents and rules read it. Everything is bounded, so a flood costs its own middle and nothing else.

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "timeline/bounded.hpp"
#include "timeline/facts.hpp"

namespace vmwhy::timeline {

constexpr std::size_t kEventsPerName = 256;
constexpr std::size_t kEventNames = 64;
constexpr std::size_t kMaxVms = 8192;
constexpr std::size_t kMaxLinks = 64;

constexpr std::size_t kLongestDetail = 1024;                        ///< Of a sensor: the rest is cut off.
using SensorMap = std::map<std::string, SensorState, std::less<>>;  ///< By name, the latest of each.
using EventMap = std::map<std::string, Bounded<QmpEvent>, std::less<>>;

struct VmTracks {
  std::uint32_t id = 0;

  // Who it is.
  std::uint32_t pid = 0;
  std::uint64_t start_ns = 0;
  std::string name, uuid, accelerator, owner, log_file;
  std::optional<std::uint32_t> uid;
  std::vector<Monitor> monitors;
  std::map<std::string, std::string> disks;  ///< Node or drive to path, from the command line.
  std::uint64_t seen_ns = 0;                 ///< First record that named it.

  // Its monitors.
  struct Link {
    std::string address;
    bool ready = false;
    std::uint64_t ready_ns = 0;
    bool overdue = false;
    std::uint64_t overdue_sent_ns = 0;
    std::uint64_t closed_ns = 0;  ///< 0: not closed since it was ready.
  };
  std::map<std::uint32_t, Link> links;
  Bounded<LinkChange> link_changes{128};
  Bounded<Withheld> withheld{32};

  // What QEMU said.
  EventMap events;
  std::uint64_t events_seen = 0;
  Bounded<Status> statuses{64};
  Bounded<StateSpan> states{64};
  Bounded<Migration> migrations{16};
  Bounded<Jobs> jobs{8};
  Bounded<BlockGraph> graphs{4};
  Bounded<BlockBackends> backends{8};
  Bounded<ThrottleGroup> throttle_groups{64};
  /// Questions for the limits of a throttle group, by link and the question's id: which group.
  std::map<std::pair<std::uint32_t, std::string>, std::string> throttle_questions;
  Bounded<Command> commands{64};
  std::map<std::string, std::uint64_t, std::less<>> answered;  ///< Queries: when each was answered last.
  Bounded<Peer> peers{64};
  std::uint64_t unheard_bytes = 0;                     ///< Of tapped monitors.
  std::map<std::uint32_t, std::int32_t> vcpu_threads;  ///< tid to cpu-index, from query-cpus-fast.

  // What the host shows of it.
  Bounded<Process> processes{64};
  Bounded<Thread> threads{512};
  Bounded<NodeFile> files{128};
  Bounded<Cgroup> cgroups{32};
  Bounded<Pressure> pressures{16};
  Bounded<Log> logs{8};
  Bounded<KvmFailure> kvm_failures{32};
  Bounded<KvmExits> kvm_exits{512};
  Bounded<IoRequest> requests{256};
  Bounded<IoStats> io_stats{512};
  Bounded<StorageLink> storage_links{512};
  Bounded<ThreadStall> thread_stalls{512};
  Bounded<ProcessSignal> signals{64};
  Bounded<OwnerState> owner_states{16};
  Bounded<QemuCall> calls{256};
  Bounded<QemuCall> block_calls{256};  ///< Of its block layer, on errors.
  SensorMap sensors;                   ///< Of what is seen of this VM alone.
  std::optional<End> ended;

  const Bounded<QmpEvent>* events_named(std::string_view event) const {
    auto at = events.find(event);
    return at == events.end() ? nullptr : &at->second;
  }
  const QmpEvent* first_event(std::string_view event, std::uint64_t from, std::uint64_t until) const {
    const Bounded<QmpEvent>* list = events_named(event);
    return list != nullptr ? list->first_in(from, until) : nullptr;
  }
  const QmpEvent* last_event(std::string_view event, std::uint64_t from, std::uint64_t until) const {
    const Bounded<QmpEvent>* list = events_named(event);
    return list != nullptr ? list->last_in(from, until) : nullptr;
  }
};

struct HostTracks {
  Bounded<KernelLine> kernel{1024};
  Bounded<BlockFailure> block_failures{256};
  Bounded<IoStats> disk_stats{1024};
  Bounded<Pressure> pressures{64};
  Bounded<Suspend> suspends{64};
  Bounded<CpuThrottle> throttles{1024};
  SensorMap sensors;
  Bounded<Lost> lost{64};
  std::uint64_t lost_records = 0;
  std::uint64_t watch_begin_ns = 0;
};

}  // namespace vmwhy::timeline
