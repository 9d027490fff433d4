// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Listens to what passes between the QEMUs watched and other clients of their monitors: records it, and tells
// of events and run states. Asks nothing: what a question would have told is known only where another client
// asked it. One thread: the io_context's.

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "host/sensors.hpp"
#include "qmp/client.hpp"
#include "record/recorder.hpp"
#include "tap/tap.hpp"

namespace vmwhy::qmp_pausewatch {

class Listener {
 public:
  struct Handlers {
    /// A monitor of our own hears the VM too: its questions tell of a main loop that stands.
    std::function<bool()> has_own_monitor;
    std::function<void(const qmp::Event&)> on_event;
    std::function<void(const std::string& state)> on_run_state;  ///< Of a reply to another's query-status.
    std::function<void(std::uint64_t took_ns)> on_round_trip;    ///< Of another's command.
    std::function<void(const boost::json::value&)> on_nodes;     ///< Another's query-named-block-nodes.
  };
  struct Opened {
    std::unique_ptr<Listener> listener;  ///< Null: there is none; the sensor says why.
    host::SensorReport sensor;
  };

  /// Loads the probe, where this process may and the kernel can.
  static Opened open();
  /// The sensor of a run that does without.
  static host::SensorReport switched_off();

  /// Begins to record. Both must outlive it. @param overdue_ns  A command without a reply for so long is
  /// told. Errors: the ring buffer cannot be read.
  Result<void> start(boost::asio::io_context& io, record::Recorder& recorder, std::uint64_t overdue_ns);
  Result<void> watch(const qmp::QemuProcess& process, std::uint32_t vm, Handlers handlers);
  void unwatch(std::uint32_t pid);
  /// Our own monitor of that VM is a TCP connection: clients that cannot be told are not recorded, for one of
  /// them is us.
  void leave_out_unknown(std::uint32_t pid);
  void drain() { tap_->drain(); }
  /// Losses, commands without a reply.
  void every_second();
  /// A command of another client of that VM waits for its reply since then; 0: none does.
  std::uint64_t waiting_since_ns(std::uint32_t pid) const;
  /// Whether another client of that VM is connected to a monitor.
  bool hears(std::uint32_t pid) const;

 private:
  struct Vm {
    std::uint32_t id = 0;
    Handlers handlers;
    bool leave_out_unknown = false;
  };
  explicit Listener(std::unique_ptr<tap::Tap> tap) : tap_(std::move(tap)) {}
  /// The VM, where this conversation of it is to be recorded.
  const Vm* vm_of(const tap::Wire& wire) const;
  void heard(const tap::Wire& wire, const qmp::proto::Overheard& message);
  void tell(const Vm& vm, const qmp::proto::Overheard& message);
  void changed(const tap::Wire& wire, tap::Change change, std::uint64_t time_ns, std::uint64_t waited_ns);
  void record_lost(std::uint64_t now);
  void record_overdue(std::uint64_t now);
  void record_link(std::uint32_t vm, std::uint32_t link, const std::string& monitor,
                   trace::QmpLinkState state, std::uint64_t waited_ns, const std::string& command);

  struct Overdue {
    std::uint32_t pid = 0, link = 0;
    std::string monitor, command;
  };
  std::unique_ptr<tap::Tap> tap_;
  record::Recorder* recorder_ = nullptr;
  std::uint64_t overdue_ns_ = 0;
  std::map<std::uint32_t, Vm> vms_;  ///< By pid.
  std::map<std::pair<std::uint64_t, std::uint64_t>, Overdue>
      overdue_;  ///< By socket and time of the command.
  std::uint64_t lost_ = 0, looked_ns_ = 0;
};

}  // namespace vmwhy::qmp_pausewatch
