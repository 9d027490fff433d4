// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What records say, decoded: small values with a time, one struct per sort of fact. Whatever stands here came
// from a QEMU, a guest or a stranger's file: it is data, bounded in size, and nothing is to be assumed of it.

#include <algorithm>
#include <array>
#include <boost/json/object.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "timeline/storage_link.hpp"
#include "trace/tap_records.hpp"
#include "trace/thread_records.hpp"

namespace vmwhy::timeline {

/// A QMP event. `time_ns` is when QEMU made it, by its own stamp, where that could be converted; else when it
/// came.
struct QmpEvent {
  std::uint64_t time_ns = 0;
  std::uint64_t arrival_ns = 0;
  std::int64_t wall_us = -1;
  bool stamped = false;  ///< time_ns is QEMU's own time.
  std::uint32_t link = 0;
  std::string name;
  boost::json::object data;
};

/// A reply to query-status. time_ns is its arrival.
struct Status {
  std::uint64_t time_ns = 0;
  std::uint64_t sent_ns = 0;
  bool running = false;
  std::string state;
};

/// The host slept: CLOCK_BOOTTIME went on and CLOCK_MONOTONIC did not. It lies somewhere between two
/// readings.
struct Suspend {
  std::uint64_t time_ns = 0;    ///< The reading after it.
  std::uint64_t before_ns = 0;  ///< The reading before it.
  std::uint64_t length_ns = 0;

  /// When it began at the latest, taken that the reading after it came as soon as the host was awake.
  std::uint64_t begin_ns() const { return time_ns - std::min(time_ns, length_ns); }
};

/// A CPU of the host was throttled for its heat.
struct CpuThrottle {
  std::uint64_t time_ns = 0;
  trace::CpuThrottle throttle{};

  std::uint64_t begin_ns() const { return time_ns - std::min(time_ns, throttle.window_ns); }
};

/// A reply to query-migrate.
struct Migration {
  std::uint64_t time_ns = 0;
  std::string status;  ///< Empty: no migration.
  std::string error;
  std::int64_t throttle_percentage =
      0;                        ///< For how much of the time it keeps vCPUs from running; 0: not at all.
  bool by_dirty_limit = false;  ///< Not by auto-converge.
};

struct Job {
  std::string id, type, status, error;
};
/// A reply to query-jobs.
struct Jobs {
  std::uint64_t time_ns = 0;
  std::vector<Job> jobs;
};

/// One node of query-named-block-nodes.
struct BlockNode {
  std::string name, driver, filename;
  std::vector<std::string> children;  ///< Node names of its file, backing …; empty where QEMU does not say.
  /// Throttle groups of filters that its requests pass, itself included, as far as its description tells.
  std::vector<std::string> throttle_groups;
};
struct BlockGraph {
  std::uint64_t time_ns = 0;
  std::map<std::string, BlockNode> nodes;
};

/// query-block and query-blockstats, as far as rules read them. io-status is left out on purpose: with
/// -blockdev it is sticky, and may name an error that was over long ago.
struct BlockBackends {
  std::uint64_t time_ns = 0;
  std::map<std::string, std::uint64_t> highest_write;  ///< By node: wr_highest_offset.
  /// By node, the limits of QEMU's throttle that are set, by the last query-block: "iops", "bps_wr", …
  std::map<std::string, std::map<std::string, std::uint64_t>> limits;
  bool limits_known = false;  ///< query-block was answered.
};

/// A throttle group of filter nodes: the limits that are set, by the names that query-block has for them.
struct ThrottleGroup {
  std::uint64_t time_ns = 0;
  std::string id;
  std::map<std::string, std::uint64_t> limits;
};

/// A command that is no query: our side sent it, or another client whose monitor was tapped.
struct Command {
  std::uint64_t time_ns = 0;
  std::string name;
  std::uint32_t link = 0;
  bool heard = false;  ///< Another client's.
  std::string id;      ///< heard: as JSON; "" without one.
  std::string line;    ///< heard: human-monitor-command's command line, migrate's uri.
};

/// Another client of a monitor, as the tap found it.
struct Peer {
  std::uint64_t time_ns = 0;
  trace::QmpPeer peer{};
  std::string monitor, comm, command_line, user, container, parents;

  trace::QmpPeerState state() const { return static_cast<trace::QmpPeerState>(peer.state); }
  /// "libvirtd (812)", "pid 812".
  std::string to_string() const;
};

struct LinkChange {
  std::uint64_t time_ns = 0;
  std::uint64_t waited_ns = 0;
  trace::QmpLinkState state{};
  std::int32_t error = 0;
  std::uint32_t link = 0;
  std::string address, detail;
};

struct Withheld {
  std::uint64_t time_ns = 0;
  std::string command, reason;
};

struct Process {
  std::uint64_t time_ns = 0;
  trace::ProcessState state{};
  std::string comm, tracer;
};

struct Thread {
  std::uint64_t time_ns = 0;
  trace::ThreadState state{};
  std::string comm, wchan, stack;
  std::string file;  ///< What its system call works on.
};

/// One of the host's block devices under a file.
struct BlockDevice {
  std::string name;       ///< The kernel's: "dm-3", "sda1".
  std::string number;     ///< "254:3".
  std::string transport;  ///< How it is reached where another machine has it: "nbd", "iscsi" …; else empty.
  std::string session;    ///< What the kernel log calls that connection, if not as the device: "session1".
};

struct NodeFile {
  std::uint64_t time_ns = 0;
  trace::NodeFile file{};
  std::string node, path, mount, fs_type, source;
  std::vector<BlockDevice> devices;  ///< Top first.
  std::string quotas;                ///< "user:64055:8384512:8388608": kind, id, bytes used, limit.
};

struct Pressure {
  std::uint64_t time_ns = 0;
  trace::Pressure pressure{};
  std::string whose;
};

struct Cgroup {
  std::uint64_t time_ns = 0;
  trace::CgroupState state{};
  std::string path;
  std::string cpu_path, memory_path;  ///< Empty: the same.
};

struct KernelLine {
  std::uint64_t time_ns = 0;
  std::uint32_t priority = 0;
  std::string text;
};

/// A storage request of a QEMU thread that failed, was short or slow, or does not end. time_ns is its end.
struct IoRequest {
  std::uint64_t time_ns = 0;
  trace::IoSyscall io{};
  std::string path, call;

  bool failed() const { return io.what == static_cast<std::uint32_t>(trace::IoWhat::failed); }
  bool is(trace::IoOperation operation) const {
    return io.operation == static_cast<std::uint32_t>(operation);
  }
  /// errno of a failure, else 0.
  int error() const {
    return failed() && io.result < 0 && io.result > -4096 ? static_cast<int>(-io.result) : 0;
  }
};

/// A request of the block layer that failed, of whomever.
struct BlockFailure {
  std::uint64_t time_ns = 0;
  trace::IoBlock io{};
  std::string disk, status;
};

/// Requests of one operation and layer in a window that ended at time_ns.
struct IoStats {
  std::uint64_t time_ns = 0;
  trace::IoStats io{};
  std::string node, disk, path;

  bool of(trace::IoLayer layer) const { return io.layer == static_cast<std::uint32_t>(layer); }
  bool is(trace::IoOperation operation) const {
    return io.operation == static_cast<std::uint32_t>(operation);
  }
  /// What the guest reads from a device or writes to it; flushes and discards take their time by nature.
  bool of_guest_data() const {
    return of(trace::IoLayer::guest) && (is(trace::IoOperation::read) || is(trace::IoOperation::write));
  }
  std::uint64_t begin_ns() const { return time_ns - std::min(time_ns, io.window_ns); }
};

struct Log {
  std::uint64_t time_ns = 0;
  std::string path, text;
};

struct End {
  std::uint64_t time_ns = 0;
  trace::EndHow how{};
  std::int32_t status = 0;
  bool core_dumped = false;
  std::string learned;
};

struct KvmFailure {
  std::uint64_t time_ns = 0;
  trace::KvmFailure failure{};
  std::string text;
};

/// Exits of one vCPU of one reason, in a window that ends at time_ns.
struct KvmExits {
  std::uint64_t time_ns = 0;
  trace::KvmExitSummary sum{};
  std::string reason;
};

/// A thread did not get on, until time_ns. `text` is the record's.
struct ThreadStall {
  std::uint64_t time_ns = 0;
  trace::ThreadStall stall{};
  std::string text;

  std::uint64_t begin_ns() const { return time_ns > stall.length_ns ? time_ns - stall.length_ns : 0; }
};

struct ProcessSignal {
  std::uint64_t time_ns = 0;
  trace::ProcessSignal signal{};
  std::string sender;
};

/// A call of one of QEMU's own functions.
struct QemuCall {
  std::uint64_t time_ns = 0;
  std::uint32_t tid = 0;
  std::array<std::uint64_t, 4> arguments{};
  std::string function;
  std::string value;                 ///< What its arguments say: "paused", "stop, write, ENOSPC".
  std::vector<std::string> strings;  ///< That they point to.
  std::vector<std::string> callers;  ///< "qmp_cont+0x1ba", the nearest first; empty: not known.

  /// Whether a function of that name is among the callers.
  bool called_by(std::string_view name) const;
};

/// What the management layer says of the VM's state.
struct OwnerState {
  std::uint64_t time_ns = 0;
  std::string owner, state;
};

struct SensorState {
  std::uint64_t time_ns = 0;
  trace::SensorState state{};
  std::int32_t error = 0;
  std::string name, detail, remedy;
};

struct Lost {
  std::uint64_t time_ns = 0;  ///< first_ns.
  std::uint64_t last_ns = 0;
  std::uint64_t count = 0;
  std::string source;
};

struct Monitor {
  std::string address;
  bool held = false;
  std::uint32_t held_by_pid = 0;
  std::string held_by_comm;
};

/// A stretch of time in which QEMU's run state was known and the same.
struct StateSpan {
  std::uint64_t time_ns = 0;  ///< Its begin.
  std::uint64_t end_ns = 0;   ///< 0: it goes on.
  std::string state;
};

}  // namespace vmwhy::timeline
