// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/check.hpp"

#include <fmt/format.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <ostream>

#include "cli/cli.hpp"
#include "core/text.hpp"
#include "host/sensors.hpp"
#include "qemu/calls.hpp"
#include "qmp/client.hpp"
#include "qmp/discovery.hpp"
#include "storage/ledger.hpp"
#include "tools/qmp-pausewatch/listener.hpp"

namespace vmwhy::qmp_pausewatch {
namespace {

/// Connects, waits for the greeting and hangs up.
host::SensorReport check_monitor(const std::string& text, const Options& options) {
  host::SensorReport out{"qmp " + text, trace::SensorState::off, 0, "", ""};
  auto address = qmp::Address::parse(text);
  if (!address) {
    out.detail = to_string(address.error());
    return out;
  }
  boost::asio::io_context io;
  qmp::ClientOptions client_options;
  const auto deadline = std::chrono::duration_cast<std::chrono::milliseconds>(options.qmp_deadline);
  client_options.address = std::move(*address);
  client_options.connect_deadline = client_options.greeting_deadline = deadline;
  bool done = false;
  qmp::Handlers handlers;
  handlers.on_state = [&](qmp::LinkState state, const qmp::Failure* failure) {
    if (done || (!failure && state != qmp::LinkState::ready)) return;
    done = true;
    out.state = failure ? trace::SensorState::failed : trace::SensorState::on;
    out.detail = failure ? to_string(*failure) : "run states, events and errors, as QEMU tells them";
    io.stop();
  };
  qmp::Client client(io, std::move(client_options), std::move(handlers));
  client.start();
  io.run_for(4 * deadline);
  if (!done) out.detail = "no answer";
  return out;
}

std::vector<host::SensorReport> all_sensors(const Options& options) {
  std::vector<host::SensorReport> out = host::probe_sensors();
  out.push_back(options.no_bpf ? storage::Ledger::switched_off()
                               : storage::Ledger::open({.syscall_probes = options.syscall_probes}).sensor);
  out.push_back(options.no_bpf ? Listener::switched_off() : Listener::open().sensor);
  const bool listens = out.back().state == trace::SensorState::on;
  out.push_back(options.no_bpf ? qemu::Calls::switched_off() : qemu::Calls::open().sensor);
  for (const std::string& socket : options.sockets) out.push_back(check_monitor(socket, options));
  for (const qmp::QemuProcess& process : qmp::find_qemus()) {
    const std::string name = process.name.empty() ? "pid " + std::to_string(process.pid) : process.name;
    host::SensorReport report{"vm " + name, trace::SensorState::partial, 0, "", ""};
    report.detail = "no QMP monitor found: watched by /proc only";
    report.remedy = "give it a second monitor: -qmp unix:PATH,server=on,wait=off";
    for (const qmp::MonitorSocket& monitor : process.monitors) {
      if (monitor.folder_unknown) {
        report.detail = monitor.why_unreachable();
        report.remedy = "run as root, or as QEMU's user";
        continue;
      }
      if (!monitor.held) {
        report.state = trace::SensorState::on;
        report.detail = monitor.place();
        report.remedy.clear();
        break;
      }
      report.detail = "monitor held by " + monitor.held_by_comm + " (pid " +
                      std::to_string(monitor.held_by_pid) +
                      "): " + (listens ? "listened to" : "watched by /proc only");
      if (listens) report.state = trace::SensorState::on;
      if (listens) report.remedy.clear();
    }
    out.push_back(std::move(report));
  }
  return out;
}

}  // namespace

int run_check(const Options& options, std::ostream& out) {
  const auto sensors = all_sensors(options);
  bool failed = false;
  boost::json::array list;
  for (const host::SensorReport& sensor : sensors) {
    failed = failed || (sensor.name.starts_with("qmp ") && sensor.state != trace::SensorState::on);
    const std::string state(host::to_string(sensor.state));
    if (options.json) {
      list.push_back(boost::json::object{
          {"sensor", sensor.name}, {"state", state}, {"detail", sensor.detail}, {"remedy", sensor.remedy}});
      continue;
    }
    out << fmt::format("{:<12} {:<8} {}\n", printable(sensor.name), state, printable(sensor.detail));
    if (!sensor.remedy.empty()) out << fmt::format("{:<21} → {}\n", "", printable(sensor.remedy));
  }
  if (options.json)
    out << boost::json::serialize(
               boost::json::object{{"schema", "vmwhy.check/1"}, {"sensors", std::move(list)}})
        << "\n";
  return failed ? cli::kEnvironment : cli::kOk;
}

}  // namespace vmwhy::qmp_pausewatch
