// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-tap/options.hpp"

#include <charconv>
#include <ostream>

#include "core/text.hpp"

namespace vmwhy::qmp_tap {
namespace {

constexpr const char* kExamples =
    "  qmp-tap                              what every client tells every QEMU of this host\n"
    "  qmp-tap -n web1 --only commands      one VM, without its events\n"
    "  qmp-tap -a --slow 100ms              commands that were not answered within 100 ms\n"
    "  qmp-tap -n web1 -o web1.vmt          record it, with who the clients were\n"
    "  qmp-tap -p 4242 --json -d 1m         one JSON object a line, for a minute";

/// The first thing that is wrong, as a sentence; empty if nothing is.
std::string interpret(Options& o, const std::vector<std::string>& pids, const std::string& only) {
  for (const std::string& text : pids) {
    for (const std::string_view part : split(text, ',')) {
      std::uint32_t pid = 0;
      const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), pid);
      if (error != std::errc() || end != part.data() + part.size() || pid == 0) return "-p takes process ids";
      o.pids.push_back(pid);
    }
  }
  if (only == "commands")
    o.only = Only::commands;
  else if (only == "events")
    o.only = Only::events;
  else if (only == "errors")
    o.only = Only::errors;
  else if (!only.empty())
    return "--only takes commands, events or errors, not '" + printable(only) + "'";
  if (o.slow.count() > 0 && o.only == Only::events)
    return "--slow is about commands, --only events shows none";
  if (o.all && (!o.pids.empty() || !o.names.empty())) return "-a excludes -p and -n";
  if (o.ring_mb == 0 || o.ring_mb > 1024) return "-b takes 1 to 1024 MiB";
  return {};
}

}  // namespace

Parsed parse_options(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  Options o;
  std::vector<std::string> pids;
  std::string only;
  cli::Parser parser("qmp-tap", "Show what passes between QEMUs and the clients of their monitors.");
  parser.texts("-p,--pid", pids, "PID", "this QEMU (repeatable)")
      .texts("-n,--name", o.names, "NAME",
             "the VM of this name or UUID, also if it starts later (repeatable)")
      .flag("-a,--all", o.all, "every VM, also those that start later (the default)")
      .text("--only", only, "WHAT", "commands (with their replies), events or errors")
      .duration("--slow", o.slow, "only commands that took longer than this, such as 100ms")
      .duration("-d,--duration", o.duration, "end after this time, such as 10s")
      .text("-o,--output", o.output, "FILE", "write all that is heard to a trace file")
      .flag("--json", o.json, "one JSON object a line")
      .flag("--show-secrets", o.show_secrets, "do not mask passwords and keys on the screen")
      .number("-b,--buffer", o.ring_mb, "MIB", "ring buffer (default 16)")
      .flag("-v,--verbose", o.verbose, "whole messages, and who the clients are")
      .flag("-q,--quiet", o.quiet, "messages only: no summary")
      .color(o.color)
      .examples(kExamples);
  if (const auto code = parser.parse(argc, argv, out, err)) return {std::nullopt, *code};
  if (const std::string wrong = interpret(o, pids, only); !wrong.empty()) {
    err << "qmp-tap: " << wrong << "\n";
    return {std::nullopt, cli::kUsage};
  }
  for (int i = 0; i < argc; ++i) o.args += (i ? " " : "") + std::string(argv[i]);
  if (o.pids.empty() && o.names.empty()) o.all = true;
  return {std::move(o), 0};
}

}  // namespace vmwhy::qmp_tap
