// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One run: VMs, probes, trace, timers. Everything lives on the io_context's thread.

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <iosfwd>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "host/kmsg.hpp"
#include "storage/guest_progress.hpp"
#include "storage/ledger.hpp"
#include "storage/server_links.hpp"
#include "tools/vm-iowatch/events.hpp"
#include "tools/vm-iowatch/link_events.hpp"
#include "tools/vm-iowatch/options.hpp"
#include "tools/vm-iowatch/table.hpp"

namespace vmwhy::vm_iowatch {

class Session {
 public:
  Session(const Options& options, std::ostream& out, std::ostream& err);
  ~Session();
  int run();

 private:
  int prepare();
  int open_trace();
  void record_start();
  void on_learned(Vm& vm);
  void on_qmp_event(Vm& vm, const qmp::Event& event);
  void watch();
  void print_maps();
  void every_interval();
  void every_tick();
  void look_at_threads(std::uint64_t now);
  void hang_again(std::uint64_t now);
  void on_blockstats(Vm& vm, const boost::json::value& blockstats);
  void look_at_links(std::uint64_t now);
  void on_event(const Event& event);
  void note_sensors();
  void stop(const std::string& reason);
  int finish();
  void complain(const std::string& text);
  std::string wall(std::uint64_t time_ns) const;

  const Options& options_;
  std::ostream &out_, &err_;
  boost::asio::io_context io_;
  boost::asio::signal_set signals_;
  boost::asio::steady_timer interval_, tick_, end_;
  std::vector<host::SensorReport> sensors_;
  std::unique_ptr<host::StorageProbe> probe_;
  std::unique_ptr<storage::Ledger> ledger_;
  std::unique_ptr<record::Recorder> recorder_;
  std::unique_ptr<host::Kmsg> kmsg_;
  std::optional<storage::DeviceStack> stack_;
  std::unique_ptr<Table> table_;
  std::unique_ptr<Events> events_;
  std::unique_ptr<LinkEvents> link_events_;
  std::unique_ptr<storage::ServerLinks> links_;
  storage::GuestProgress progress_;
  std::uint64_t looked_at_links_ns_ = 0;
  std::map<std::uint32_t, std::unique_ptr<Vm>> vms_;
  std::map<std::uint32_t, bool> learned_;
  std::map<std::uint32_t, std::string> open_files_;  ///< When the map was learned.
  /// A thread in D, or waiting for a FUSE server.
  struct Waiting {
    std::uint64_t since_ns = 0;  ///< Since then it has not moved.
    std::uint64_t switches = 0;
    bool told = false;
  };
  std::map<std::pair<std::uint32_t, std::uint32_t>, Waiting> waiting_;  ///< By process and thread.
  std::uint64_t threads_due_ns_ = 0;
  std::uint64_t last_sample_ns_ = 0, last_clock_ns_ = 0, last_look_ns_ = 0;
  bool watching_ = false, stopping_ = false, node_found_ = false;
  std::string stop_reason_;
  int exit_code_ = cli::kOk;
};

}  // namespace vmwhy::vm_iowatch
