// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One VM: its monitor, its process, its control groups, its disks; samples it once a second and collects
// evidence when told to.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "host/cgroup.hpp"
#include "host/process.hpp"
#include "host/threads.hpp"
#include "qmp/discovery.hpp"
#include "storage/node_map.hpp"
#include "tools/qmp-pausewatch/context.hpp"
#include "tools/qmp-pausewatch/link.hpp"
#include "tools/qmp-pausewatch/monitors.hpp"

namespace vmwhy::qmp_pausewatch {

class Collector;

class VmWatch {
 public:
  struct Handlers {
    std::function<void(const std::string& failure)> on_settled;  ///< Once: ready (empty), or why not.
    std::function<void(const qmp::Event&)> on_event;
    std::function<void(const std::string&)> on_run_state;  ///< It changed to this one.
    std::function<void(std::uint64_t rtt_ns)> on_round_trip;
    std::function<void()>
        on_ended;  ///< Everything about its end is recorded; destroy it later, not from here.
    /// A monitor's process is known now, or another one answers: look at it.
    std::function<void(std::uint32_t pid)> on_pid;
  };

  /// @param asked_for  The monitor that the user named; nothing: the first that nobody holds.
  VmWatch(Context& context, std::uint32_t id, qmp::QemuProcess process, std::optional<std::string> asked_for,
          Handlers handlers);
  ~VmWatch();

  void start();
  /// Once a second. `thorough`: also what costs: threads, and the process although QEMU answers. `beat`: ask
  /// query-status.
  void tick(bool thorough, bool beat);
  /// Collects evidence, after the collection that is under way, if any.
  void collect();
  bool collecting() const { return collector_ != nullptr; }
  /// What discovery found out once the monitor's peer was known.
  void learn(qmp::QemuProcess process);
  /// Writes what ends the record of this VM.
  void finish(const std::string& reason);

  std::uint32_t id() const { return id_; }
  std::uint32_t pid() const { return process_.pid; }
  const qmp::QemuProcess& process() const { return process_; }
  std::string name() const;
  /// "web1: its monitor …": the sentence, and what VM it is about.
  std::string of(const std::string& sentence) const;
  /// The address of our own monitor; of one that is only listened to, its owner's. "": none.
  std::string monitor() const;
  /// For people: "/run/web1.qmp", "listening to the monitor that libvirtd (812) holds".
  std::string watched_by() const;
  bool ended() const { return ended_; }
  /// How long the heartbeat has been waited for; 0: none is.
  std::uint64_t waiting_ns() const;
  bool watched_by_process() const { return process_.pid != 0 && !gone_; }
  bool heard() const;
  const std::optional<std::string>& asked_for() const { return asked_for_; }
  const std::vector<storage::NodePath>& nodes() const { return nodes_; }
  /// Which request to the storage hangs, as a sentence; empty: none that is known. The files may answer all
  /// the same: what hangs may be data only.
  std::string hung_storage() const;
  void take_nodes(const boost::json::value& named_block_nodes);
  /// "/dev/fdset/N" as the descriptor of QEMU that it stands for; any other path as it is.
  std::string descriptor_path(const std::string& path) const;

 private:
  friend class Collector;

  void connect();
  std::string why_not_asked() const;
  /// Without a monitor of our own: listens to what others say, or tells why not.
  void settle_without_monitor(const std::string& why);
  void watch_process();
  void follow_calls();
  void listen();
  void on_ready();
  void on_link_failed(const qmp::Failure& failure);
  void on_event(const qmp::Event& event);
  void on_run_state(const std::string& state);
  void on_exit(const trace::VmEnd& end, const std::string& how);
  void ask_identity();
  void ask_migration();
  void learn_roles();
  void refresh_nodes();
  void sample_process(std::uint64_t now);
  void sample_threads(std::uint64_t now);
  void record_seen();
  void settle(const std::string& failure);
  void on_collected();

  Context& context_;
  const std::uint32_t id_;
  qmp::QemuProcess process_;
  std::optional<std::string> asked_for_;
  Handlers handlers_;

  std::unique_ptr<Link> link_;
  bool listening_ = false;  ///< To the other clients of its monitors.
  Monitors monitors_{process_};
  std::unique_ptr<host::ExitWatch> exit_;
  host::ProcessWatch watch_;
  host::CgroupWatch cgroup_;
  host::Roles roles_;
  std::vector<storage::NodePath> nodes_;
  std::vector<std::pair<std::string, std::uint32_t>> fdsets_;
  std::shared_ptr<Collector> collector_;

  char last_state_ = 0;
  std::uint32_t last_tracer_ = 0;
  bool migrates_ = false;  ///< A migration is under way, as far as QEMU has told.
  trace::FreezerState last_freezer_ = trace::FreezerState::unknown;
  /// A thread that was in D, or waited for FUSE, at the last sample.
  struct Blocked {
    std::uint64_t since_ns = 0;  ///< Since then it has not moved.
    std::uint64_t switches = 0;
  };
  std::map<std::uint32_t, Blocked> blocked_;  ///< By thread id.
  std::string run_state_;
  std::uint64_t last_collection_ns_ = 0;
  int retry_in_ = 0;  ///< Ticks until the monitor is tried again.
  int failures_ = 0;
  bool again_ = false;  ///< A collection was asked for while one was under way.
  bool settled_ = false;
  bool nodes_pending_ = false;
  bool drop_link_ = false;  ///< It only waits behind its holder: leave the queue.
  bool gone_ = false;       ///< The process has ended.
  bool ended_ = false;      ///< And all about it is recorded.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace vmwhy::qmp_pausewatch
