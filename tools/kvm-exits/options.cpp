// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-exits/options.hpp"

#include <charconv>
#include <ostream>

#include "core/text.hpp"

namespace vmwhy::kvm_exits {
namespace {

constexpr const char* kExamples =
    "  kvm-exits -i 1s                      all VMs, a table each second\n"
    "  kvm-exits -p 4242 -d 10s             one VM, ten seconds, one table\n"
    "  kvm-exits -n web1 -k max --json      slowest reasons first, as one JSON document\n"
    "  kvm-exits --event mmio,pio -d 5s     which ports and addresses the guests touch\n"
    "  kvm-exits -p 4242 -o exits.vmt -- ./repro.sh\n"
    "  kvm-exits --check                    what works on this host, and what is missing";

struct Text {
  std::vector<std::string> pids, vcpus, events;
  std::string key = "time";
};

void declare(cli::Parser& parser, Options& o, Text& text) {
  parser.texts("-p,--pid", text.pids, "PID", "this QEMU (repeatable)")
      .texts("-n,--name", o.names, "NAME", "the VM of this name or UUID (repeatable)")
      .texts("-s,--qmp", o.sockets, "SOCKET", "the VM of this QMP socket (repeatable)")
      .flag("--no-qmp", o.no_qmp, "do not ask QEMU for its devices' addresses")
      .flag("-a,--all", o.all, "every VM, also those that start later (the default)")
      .texts("--vcpu", text.vcpus, "N,…", "only these vCPUs")
      .duration("-i,--interval", o.interval, "a table after each of these times, such as 1s")
      .duration("-d,--duration", o.duration, "end after this time, such as 10s")
      .text("-k,--key", text.key, "KEY", "order by time, count or max (default time)")
      .texts("--event", text.events, "KIND,…", "only exit, userspace, pio or mmio")
      .duration("--min-latency", o.min_latency, "count only exits that lasted this long, such as 1ms")
      .flag("--json", o.json, "one JSON document at the end")
      .flag("--csv", o.csv, "comma-separated values")
      .flag("--raw", o.raw, "print each exit as it ends")
      .text("-o,--output", o.output, "FILE", "write each exit and the sums to a trace file")
      .number("-b,--buffer", o.ring_mb, "MIB", "ring buffer for --raw and -o (default 8)")
      .number("--max-vcpus", o.max_vcpus, "N", "room for so many vCPUs (default: as found, and some more)")
      .text("--probe", o.probe, "FORM", "auto, btf, raw or classic (default auto)")
      .flag("--check", o.check, "print what works on this host, and end")
      .flag("-q,--quiet", o.quiet, "results only")
      .color(o.color)
      .command_after_dashes(o.command, "run this, and end when it ends")
      .examples(kExamples);
}

template <class Number, class Add>
bool parse_numbers(const std::vector<std::string>& texts, Add add) {
  for (const std::string& text : texts) {
    for (const std::string_view part : split(text, ',')) {
      Number value{};
      const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
      if (error != std::errc() || end != part.data() + part.size() || value < 0) return false;
      add(value);
    }
  }
  return true;
}

std::string interpret_events(Options& o, const Text& text) {
  if (text.events.empty()) return {};
  o.exits = o.userspace = o.pio = o.mmio = false;
  for (const std::string& list : text.events) {
    for (const std::string_view event : split(list, ',')) {
      if (event == "exit")
        o.exits = true;
      else if (event == "userspace")
        o.userspace = true;
      else if (event == "pio")
        o.pio = true;
      else if (event == "mmio")
        o.mmio = true;
      else
        return "--event takes exit, userspace, pio and mmio, not '" + printable(event) + "'";
    }
  }
  return {};
}

/// The first thing that is wrong, as a sentence; empty if nothing is.
std::string interpret(Options& o, const Text& text) {
  if (!parse_numbers<std::int32_t>(
          text.pids, [&](std::int32_t pid) { o.pids.push_back(static_cast<std::uint32_t>(pid)); }))
    return "-p takes process ids";
  if (!parse_numbers<std::int32_t>(text.vcpus, [&](std::int32_t vcpu) { o.vcpus.push_back(vcpu); }))
    return "--vcpu takes numbers of vCPUs";
  if (text.key == "time")
    o.key = Key::time;
  else if (text.key == "count")
    o.key = Key::count;
  else if (text.key == "max")
    o.key = Key::max;
  else
    return "-k takes time, count or max, not '" + printable(text.key) + "'";
  if (o.probe != "auto" && o.probe != "btf" && o.probe != "raw" && o.probe != "classic")
    return "--probe takes auto, btf, raw or classic, not '" + printable(o.probe) + "'";
  if (o.json + o.csv + o.raw > 1) return "--json, --csv and --raw exclude each other";
  if (o.all && (!o.pids.empty() || !o.names.empty() || !o.sockets.empty()))
    return "-a excludes -p, -n and -s";
  if (o.no_qmp && !o.sockets.empty()) return "-s and --no-qmp exclude each other";
  if (o.ring_mb == 0 || o.ring_mb > 1024) return "-b takes 1 to 1024 MiB";
  if (o.max_vcpus > 65534) return "--max-vcpus takes at most 65534";
  if (std::string wrong = interpret_events(o, text); !wrong.empty()) return wrong;
  if ((o.raw || !o.output.empty()) && !o.exits) return "--raw and -o need the event exit";
  return {};
}

}  // namespace

Parsed parse_options(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  Options options;
  Text text;
  cli::Parser parser("kvm-exits", "Show why vCPUs leave the guest: counts, times and latencies by reason.");
  declare(parser, options, text);
  if (const auto code = parser.parse(argc, argv, out, err)) return {std::nullopt, *code};
  if (const std::string wrong = interpret(options, text); !wrong.empty()) {
    err << "kvm-exits: " << wrong << "\n";
    return {std::nullopt, cli::kUsage};
  }
  for (int i = 0; i < argc; ++i) options.args += (i ? " " : "") + std::string(argv[i]);
  if (options.pids.empty() && options.names.empty() && options.sockets.empty()) options.all = true;
  return {std::move(options), 0};
}

}  // namespace vmwhy::kvm_exits
