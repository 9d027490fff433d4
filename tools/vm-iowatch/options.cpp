// SPDX-License-Identifier: BSD-2-Clause
#include "tools/vm-iowatch/options.hpp"

#include <ostream>

#include "core/text.hpp"
#include "host/proc_file.hpp"
#include "qmp/client.hpp"
#include "qmp/remedy.hpp"

namespace vmwhy::vm_iowatch {
namespace {

constexpr const char* kExamples =
    "  vm-iowatch -n web1                       rates and latencies each second, failures as they happen\n"
    "  vm-iowatch -a --map                      what lies under each block node, down to the disks\n"
    "  vm-iowatch -p 4242 --node disk0 -d 10s --json\n"
    "  vm-iowatch -s /run/web1.qmp --slow 100ms --hang 2s -o io.vmt\n"
    "  vm-iowatch --check                       what can be seen on this host, and what is missing";

void declare(cli::Parser& parser, Options& o, std::vector<std::string>& pids) {
  parser.texts("-p,--pid", pids, "PID", "this QEMU (repeatable)")
      .texts("-n,--name", o.names, "NAME", "the VM of this name or UUID (repeatable)")
      .texts("-s,--qmp", o.sockets, "SOCKET", "the VM behind this QMP socket (repeatable)")
      .flag("-a,--all", o.all, "every QEMU of this host (the default)")
      .text("--node", o.node, "NODE", "only this block node and what lies under it")
      .duration("--slow", o.slow, "tell of requests that took longer (default 500ms)")
      .duration("--hang", o.hang, "tell of requests that have not ended after this time (default 5s)")
      .duration("-i,--interval", o.interval, "a table after each of these times (default 1s)")
      .duration("-d,--duration", o.duration, "end after this time, such as 10s")
      .flag("--map", o.map, "print what lies under each block node, and end")
      .flag("--json", o.json, "one JSON object a line")
      .text("-o,--output", o.output, "FILE", "keep failures, slow and hung requests in a trace for vm-why")
      .flag("--no-bpf", o.no_bpf, "do without kernel probes")
      .flag("--syscall-probes", o.syscall_probes,
            "follow system calls also where that slows down every call of this host")
      .flag("--check", o.check, "print what can be seen on this host, and end")
      .flag("-q,--quiet", o.quiet, "results only")
      .examples(kExamples);
}

/// The first thing that is wrong, as a sentence; empty if nothing is.
std::string interpret(Options& o, const std::vector<std::string>& pids) {
  for (const std::string& text : pids) {
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
  const bool named = !o.pids.empty() || !o.names.empty() || !o.sockets.empty();
  if (o.all && named) return "-a excludes -p, -n and -s";
  o.all = !named;
  if (o.no_bpf && o.syscall_probes) return "--no-bpf and --syscall-probes exclude each other";
  if (o.map && !o.output.empty()) return "--map keeps no trace: leave out -o";
  if (o.slow.count() <= 0 || o.hang.count() <= 0 || o.interval.count() <= 0)
    return "--slow, --hang and -i take times above zero";
  return {};
}

}  // namespace

Parsed parse_options(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  Options options;
  std::vector<std::string> pids;
  cli::Parser parser("vm-iowatch", "Follow the storage requests of VMs from block node to disk.");
  declare(parser, options, pids);
  if (const auto code = parser.parse(argc, argv, out, err)) return {std::nullopt, *code};
  if (const std::string wrong = interpret(options, pids); !wrong.empty()) {
    err << "vm-iowatch: " << wrong << "\n";
    return {std::nullopt, cli::kUsage};
  }
  for (int i = 0; i < argc; ++i) options.args += (i ? " " : "") + std::string(argv[i]);
  return {std::move(options), 0};
}

}  // namespace vmwhy::vm_iowatch
