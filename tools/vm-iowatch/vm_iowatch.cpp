// SPDX-License-Identifier: BSD-2-Clause
#include "tools/vm-iowatch/vm_iowatch.hpp"

#include <fmt/format.h>

#include <ostream>

#include "core/text.hpp"
#include "storage/ledger.hpp"
#include "tools/vm-iowatch/output.hpp"
#include "tools/vm-iowatch/session.hpp"

namespace vmwhy::vm_iowatch {
namespace {

int check(const Options& options, std::ostream& out) {
  auto sensors = host::probe_sensors();
  storage::LedgerOptions wanted;
  wanted.syscall_probes = options.syscall_probes;
  wanted.rows = 1;
  sensors.push_back(options.no_bpf ? storage::Ledger::switched_off() : storage::Ledger::open(wanted).sensor);
  for (const host::SensorReport& sensor : sensors) {
    const std::string state(host::to_string(sensor.state));
    if (options.json) {
      print_json(out, {{"schema", "vmwhy.io/1"},
                       {"kind", "check"},
                       {"sensor", sensor.name},
                       {"state", state},
                       {"detail", sensor.detail},
                       {"remedy", sensor.remedy}});
      continue;
    }
    out << fmt::format("{:<12} {:<8} {}\n", printable(sensor.name), state, printable(sensor.detail));
    if (!sensor.remedy.empty()) out << fmt::format("{:<21} → {}\n", "", printable(sensor.remedy));
  }
  return sensors.back().state == trace::SensorState::off ? cli::kEnvironment : cli::kOk;
}

}  // namespace

int run(const Options& options, std::ostream& out, std::ostream& err) {
  if (options.check) return check(options, out);
  return Session(options, out, err).run();
}

}  // namespace vmwhy::vm_iowatch
