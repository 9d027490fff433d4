// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A run: finds the VMs, watches them, hands records to the trace and the analysis, and acts on what the
// analysis says. One thread, one io_context, one timer for all VMs.

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <iosfwd>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "act/command.hpp"
#include "causes/analysis.hpp"
#include "host/sensors.hpp"
#include "tools/qmp-pausewatch/context.hpp"
#include "tools/qmp-pausewatch/options.hpp"
#include "tools/qmp-pausewatch/reporter.hpp"
#include "tools/qmp-pausewatch/scout.hpp"
#include "tools/qmp-pausewatch/targets.hpp"
#include "tools/qmp-pausewatch/vm_watch.hpp"

namespace vmwhy::qmp_pausewatch {

class Watcher {
 public:
  Watcher(const Options& options, std::ostream& out, std::ostream& err);
  ~Watcher();

  /// @return the exit code.
  int run();

 private:
  /// Whether what is not there yet may still come.
  bool waits() const;
  bool no_such_pid();
  void listen(Listener::Opened opened);
  bool nothing_to_watch(const std::vector<qmp::QemuProcess>& found);
  bool open_trace(const std::vector<qmp::QemuProcess>& found);
  void record_start();
  void say_what_is_off();
  void add(std::vector<Target> targets);
  void add_one(Target target);
  void on_ended(std::uint32_t id);
  void on_settled(VmWatch& vm, const std::string& failure);
  void look_for_more();

  void slice();
  void every_second();
  void pump();
  void schedule_pump();
  void record_clock();

  void start_command();
  void watch_command();
  void on_report(const causes::Incident& incident);
  void fire(std::size_t trigger, VmWatch* vm, const std::string& name);
  void fire_matching(Condition::Kind kind, const std::string& name, VmWatch& vm);
  void check_rtt(VmWatch& vm, std::uint64_t rtt_ns);

  void stop(const std::string& reason);
  void wait_for_collections(int tries);
  void finish();
  int exit_code() const;

  const Options& options_;
  std::ostream& out_;
  std::ostream& err_;
  boost::asio::io_context io_;
  boost::asio::steady_timer timer_;
  boost::asio::steady_timer end_timer_;
  boost::asio::signal_set signals_;
  causes::Analysis analysis_;
  Reporter reporter_;
  std::unique_ptr<record::Recorder> recorder_;
  std::unique_ptr<Context> context_;
  std::unique_ptr<host::StorageProbe> probe_;
  std::vector<host::SensorReport> sensors_;
  Targets targets_;
  std::unique_ptr<Scout> scout_;
  static constexpr std::uint64_t kSlicesPerSecond = 10;
  std::map<std::uint32_t, std::unique_ptr<VmWatch>> vms_;
  std::array<std::vector<VmWatch*>, kSlicesPerSecond> by_slot_;  ///< The same, by their turn within a second.
  std::uint32_t last_id_ = 0;

  std::string trace_path_;
  std::optional<act::Command> command_;
  act::Commands executed_;
  std::set<std::pair<std::size_t, std::uint32_t>> slow_;  ///< Trigger and VM: told of already.
  std::optional<trace::ClockSnapshot> last_clock_;
  std::uint64_t slices_ = 0;
  std::uint64_t incidents_ = 0;
  std::set<std::uint32_t> unsettled_;
  std::map<std::string, std::string> told_;  ///< Monitor of -s: why it could not be used, as last said.
  std::uint64_t command_began_ns_ = 0;       ///< 0: not yet, or there is none.
  std::optional<int> expect_code_;
  bool watched_any_ = false;
  bool scouting_ = false;
  bool pump_scheduled_ = false;
  bool stopping_ = false;
  bool command_due_ = false;
  int attach_waits_ = 0;
  std::string stop_reason_;
};

}  // namespace vmwhy::qmp_pausewatch
