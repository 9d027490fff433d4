// SPDX-License-Identifier: BSD-2-Clause
#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <ostream>

#include "cli/cli.hpp"
#include "core/text.hpp"
#include "qmp/discovery.hpp"
#include "tools/qmp-call/qmp_call.hpp"

namespace vmwhy::qmp_call {
namespace {

constexpr std::size_t kColumns = 6;
using Row = std::array<std::string, kColumns>;

std::string vcpu_threads(const qmp::QemuProcess& process) {
  std::string out;
  for (const qmp::QemuThread& thread : process.threads)
    if (thread.vcpu >= 0) out += (out.empty() ? "" : ",") + std::to_string(thread.tid);
  return out.empty() ? "-" : out;
}

std::string monitor_text(const qmp::MonitorSocket& monitor) {
  std::string out = printable(monitor.place());
  if (monitor.folder_unknown) out += " (folder not visible)";
  if (!monitor.held) return out;
  if (monitor.held_by_pid == 0) return out + " (held)";
  return out + " (held by " + printable(monitor.held_by_comm) + " " + std::to_string(monitor.held_by_pid) +
         ")";
}

std::string owner_text(const qmp::QemuProcess& process) {
  std::string out(qmp::to_string(process.owner));
  if (process.owner == qmp::Owner::proxmox && !process.owner_detail.empty())
    out += " " + printable(process.owner_detail);
  return out;
}

void add_rows(const qmp::QemuProcess& process, std::vector<Row>& rows) {
  const std::string name = process.unreadable     ? "(unreadable)"
                           : process.name.empty() ? "-"
                                                  : printable(process.name, 64);
  rows.push_back({std::to_string(process.pid), name,
                  process.accelerator.empty() ? "?" : printable(process.accelerator), owner_text(process),
                  vcpu_threads(process), process.monitors.empty() ? "-" : ""});
  for (std::size_t i = 0; i < process.monitors.size(); ++i) {
    if (i > 0) rows.emplace_back();
    rows.back().back() = monitor_text(process.monitors[i]);
  }
}

void print_table(const std::vector<Row>& rows, bool color, std::ostream& out) {
  std::array<std::size_t, kColumns> widths{};
  for (const Row& row : rows)
    for (std::size_t i = 0; i < kColumns; ++i) widths[i] = std::max(widths[i], row[i].size());
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < kColumns; ++i) {
      line += row[i];
      if (i + 1 < kColumns) line += std::string(widths[i] - row[i].size() + 2, ' ');
    }
    const bool head = color && &row == &rows.front();
    out << (head ? "\x1b[1m" : "") << line << (head ? "\x1b[0m" : "") << "\n";
  }
}

}  // namespace

int list(const Options& options, std::ostream& out) {
  qmp::DiscoveryOptions discovery;
  discovery.proc = options.proc;
  const auto processes = qmp::find_qemus(discovery);
  if (options.json) {
    boost::json::array array;
    for (const qmp::QemuProcess& process : processes) array.push_back(qmp::to_json(process));
    out << boost::json::serialize(
               boost::json::object{{"schema", "vmwhy.qmp-list/1"}, {"processes", std::move(array)}})
        << "\n";
    return cli::kOk;
  }
  if (processes.empty()) {
    out << "no QEMU process is to be seen on this host\n";
    return cli::kOk;
  }
  std::vector<Row> rows{{"PID", "NAME", "ACCEL", "OWNER", "VCPU THREADS", "QMP"}};
  for (const qmp::QemuProcess& process : processes) add_rows(process, rows);
  print_table(rows, options.color, out);
  for (const qmp::QemuProcess& process : processes)
    if (process.unreadable)
      out << process.pid << ": its command line did not come in time; the process may hang (see /proc/"
          << process.pid << "/wchan)\n";
  return cli::kOk;
}

}  // namespace vmwhy::qmp_call
