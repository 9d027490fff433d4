// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/options.hpp"

#include <ostream>

#include "causes/cause_names.hpp"
#include "core/text.hpp"
#include "host/proc_file.hpp"
#include "qmp/client.hpp"
#include "qmp/remedy.hpp"

namespace vmwhy::qmp_pausewatch {
namespace {

constexpr const char* kExamples =

    "  qmp-pausewatch -s /run/vm/web1.qmp                watch one VM; the trace goes to "
    "./vmwhy-web1-DATE.vmt\n"
    "  qmp-pausewatch -a -d 8h -o night.vmt              every QEMU of this host, for a night\n"
    "  qmp-pausewatch -p 4242 --once --json              one incident, as JSON\n"
    "  qmp-pausewatch -s /tmp/q --expect storage-full --within 30s -- ./repro.sh\n"
    "  qmp-pausewatch -a --on 'qmp-rtt>5s' --then 'exec gdb-backtrace $VMWHY_VM_PID'\n"
    "  qmp-pausewatch --check                            what works here, and what is missing";

struct Raw {
  std::vector<std::string> pids, marks, on, then;
  std::string expect;
  bool check = false;
};

void declare(cli::Parser& parser, Options& o, Raw& raw) {
  parser.texts("-s,--qmp", o.sockets, "SOCKET", "watch the VM behind this QMP socket (repeatable)")
      .texts("-p,--pid", raw.pids, "PID", "watch this QEMU (repeatable)")
      .texts("-n,--name", o.names, "NAME", "watch the VM of this name or UUID (repeatable)")
      .flag("-a,--all", o.all, "watch every QEMU of this host, new ones too")
      .text("-o,--output", o.output, "FILE", "the trace (default: ./vmwhy-NAME-DATE.vmt)")
      .flag("--no-output", o.no_output, "keep no trace")
      .duration("-d,--duration", o.duration, "end after this time, such as 5m")
      .flag("--json", o.json, "one verdict document a line for each report")
      .flag("--once", o.once, "end after the first report")
      .flag("--exit-code", o.exit_code, "exit with 4 if something was reported")
      .texts("-M,--mark", raw.marks, "KEY=VALUE", "store this in the trace (repeatable)")
      .duration("--qmp-deadline", o.qmp_deadline, "a reply that takes longer is a finding (default 2s)")
      .text("--expect", raw.expect, "CAUSE[/KEY=VALUE…]",
            "exit 0 only if this comes; 1 if not, 125 if not watchable")
      .duration("--within", o.within, "how long --expect waits (default 30s)")
      .texts("--on", raw.on, "CONDITION",
             "runstate=NAME, event=NAME, cause=NAME or qmp-rtt>TIME (repeatable)")
      .texts("--then", raw.then, "ACTION", "'exec COMMAND', snapshot or exit (for each --on, or one for all)")
      .flag("--no-bpf", o.no_bpf, "do without kernel probes")
      .flag("--syscall-probes", o.syscall_probes,
            "follow system calls also where that slows down every call of this host")
      .flag("--check", o.check, "print what can be seen on this host, and end")
      .flag("-q,--quiet", o.quiet, "reports only")
      .flag("-v,--verbose", o.verbose, "print each QMP command sent")
      .color(o.color)
      .command_after_dashes(o.command, "the reproduction that --expect runs")
      .examples(kExamples);
}

std::string no_cause(const char* option, const std::string& name) {
  std::string known;
  for (const std::string_view cause : causes::cause_names())
    known += (known.empty() ? "" : ", ") + std::string(cause);
  return std::string(option) + ": no cause is named " + printable(name) + "; there are " + known;
}

/// The first thing that is wrong, as a sentence; empty if nothing is.
std::string interpret(Options& o, const Raw& raw) {
  for (const std::string& text : raw.pids) {
    for (const std::string_view part : split(text, ',')) {
      const auto pid = host::parse_u64(part);
      if (!pid || *pid == 0 || *pid > 0x7fffffff) return "-p " + printable(text) + ": not a process id";
      o.pids.push_back(static_cast<std::uint32_t>(*pid));
    }
  }
  for (const std::string& socket : o.sockets) {
    const auto address = qmp::Address::parse(socket);
    if (!address) return "-s: " + to_string(address.error()) + "; " + qmp::remedy(address.error());
  }
  for (const std::string& mark : raw.marks) {
    const auto equals = mark.find('=');
    if (equals == 0 || equals == std::string::npos) return "-M " + printable(mark) + ": expected KEY=VALUE";
    o.marks.emplace_back(mark.substr(0, equals), mark.substr(equals + 1));
  }
  if (!raw.expect.empty()) {
    auto expect = Expectation::parse(raw.expect);
    if (!expect) return to_string(expect.error());
    o.expect = std::move(*expect);
    if (o.expect->cause != "any" && !causes::is_cause(o.expect->cause))
      return no_cause("--expect", o.expect->cause) + "; any stands for every cause";
  }
  auto triggers = pair_triggers(raw.on, raw.then);
  if (!triggers) return to_string(triggers.error());
  o.triggers = std::move(*triggers);
  for (const Trigger& trigger : o.triggers)
    if (trigger.condition.kind == Condition::Kind::cause && !causes::is_cause(trigger.condition.name))
      return no_cause("--on", trigger.condition.name);
  if (o.no_bpf && o.syscall_probes) return "--no-bpf and --syscall-probes exclude each other";
  if (o.check) return {};
  if (o.sockets.empty() && o.pids.empty() && o.names.empty() && !o.all)
    return "nothing to watch: give -s SOCKET, -p PID, -n NAME or -a (see --help)";
  if (!o.command.empty() && !o.expect) return "a command after -- needs --expect CAUSE";
  if (!o.output.empty() && o.no_output) return "-o and --no-output exclude each other";
  if (o.qmp_deadline.count() <= 0) return "--qmp-deadline must be above zero";
  return {};
}

}  // namespace

Parsed parse_options(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  Options options;
  Raw raw;
  cli::Parser parser("qmp-pausewatch", "Watch VMs, and say why they pause, stall or end.");
  declare(parser, options, raw);
  if (const auto code = parser.parse(argc, argv, out, err)) return {std::nullopt, *code};
  const std::string wrong = interpret(options, raw);
  if (!wrong.empty()) {
    err << "qmp-pausewatch: " << wrong << "\n";
    return {std::nullopt, cli::kUsage};
  }
  for (int i = 0; i < argc; ++i) options.args += (i ? " " : "") + std::string(argv[i]);
  return {std::move(options), 0};
}

}  // namespace vmwhy::qmp_pausewatch
