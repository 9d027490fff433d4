// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One VM: its monitor, and what lies under its block nodes. Asks QEMU about its storage only after a helper
// process has looked at the same files, and never waits for either. One thread: the io_context's.

#include <boost/asio/io_context.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "host/storage_probe.hpp"
#include "qmp/client.hpp"
#include "record/recorder.hpp"
#include "storage/guest_progress.hpp"
#include "storage/map.hpp"
#include "tools/vm-iowatch/targets.hpp"

namespace vmwhy::vm_iowatch {

/// What every VM of a run shares. All outlive them.
struct Context {
  boost::asio::io_context& io;
  record::Recorder& recorder;
  host::StorageProbe* probe;  ///< Null: no helper could be started; storage is not looked at.
};

class Vm {
 public:
  struct Handlers {
    std::function<void()> on_learned;  ///< The map is as good as it gets; again after every learn().
    std::function<void(const qmp::Event&)> on_event;
    std::function<void(const boost::json::value&)> on_blockstats;
    std::function<void(bool running)> on_running;  ///< By query-status.
  };

  Vm(const Context& context, std::uint32_t id, Target target, Handlers handlers);
  ~Vm();

  /// Connects, if there is a monitor, then learns.
  void start();
  /// Looks at the files, asks for the graph if they answered, and looks at what that added.
  void learn();
  /// Asks query-blockstats, if each file has answered the last look and QEMU its last question.
  void ask_blockstats();
  /// Asks about virtio queues; one answer for each of them, null where QEMU has none to give.
  using QueueHandler = std::function<void(const storage::GuestProgress::Queue&, const boost::json::value*)>;
  void ask_queues(const std::vector<storage::GuestProgress::Queue>& queues, const QueueHandler& handler);
  /// Looks at each file once more, into the trace; for what happened just now.
  void look_again();
  /// Records the end of the watch.
  void finish(const std::string& reason);

  std::uint32_t id() const { return id_; }
  std::uint32_t pid() const { return target_.process.pid; }
  const storage::MapInput& map() const { return map_; }
  const std::string& name() const { return map_.name; }
  bool has_monitor() const { return ready_; }
  /// The nodes over servers that QEMU's own clients speak to.
  std::vector<storage::ServerNode> servers() const;
  /// Names of the nodes whose lowest file is `path`.
  std::vector<std::string> nodes_of(const std::string& path) const;

 private:
  using Done = std::function<void(bool all_reached)>;
  void look_at(const std::vector<std::string>& paths, bool record, Done done);
  void ask_graph();
  void ask_status();
  void find_throttle_groups();
  void ask_throttle_groups();
  void ask(const char* command, std::function<void(const boost::json::value*)> handler);
  void ask(const char* command, boost::json::object arguments,
           std::function<void(const boost::json::value*)> handler);
  void learned();
  std::vector<std::string> paths() const;
  void on_traffic(const qmp::Traffic& traffic);
  void on_state(qmp::LinkState state, const qmp::Failure* failure);
  void record_link(trace::QmpLinkState state, const std::string& detail);

  Context context_;
  const std::uint32_t id_;
  Target target_;
  Handlers handlers_;
  storage::MapInput map_;
  std::unique_ptr<qmp::Client> client_;
  boost::json::value nodes_, block_, blockstats_;
  std::vector<std::string> throttle_groups_;  ///< QOM paths.
  bool ready_ = false, settled_ = false, learning_ = false, looking_ = false;
  bool asked_graph_ = false;  ///< QEMU was asked for its nodes.
  std::size_t asked_ = 0;     ///< Questions not answered yet.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace vmwhy::vm_iowatch
