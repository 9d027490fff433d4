// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-stalls/options.hpp"

#include <charconv>
#include <ostream>

#include "core/text.hpp"

namespace vmwhy::kvm_stalls {
namespace {

constexpr const char* kExamples =
    "  kvm-stalls -a -i 1s                   all VMs: where each thread's time goes, each second\n"
    "  kvm-stalls -p 4242 -d 10s             one VM, ten seconds, and its worst stalls\n"
    "  kvm-stalls -n web1 --min-latency 50ms --json -d 1m\n"
    "  kvm-stalls -a -o night.vmt -d 8h      afterwards: vm-trace cat night.vmt\n"
    "  kvm-stalls -a --on stall=throttled --then 'exec logger \"$VMWHY_VM_NAME: $VMWHY_SUMMARY\"'\n"
    "  kvm-stalls --check                    what works on this host, and what is missing";

struct Text {
  std::vector<std::string> pids, vcpus, on, then;
};

void declare(cli::Parser& parser, Options& o, Text& text) {
  parser.texts("-p,--pid", text.pids, "PID", "this QEMU (repeatable)")
      .texts("-n,--name", o.names, "NAME", "the VM of this name or UUID (repeatable)")
      .flag("-a,--all", o.all, "every VM, also those that start later (the default)")
      .texts("--vcpu", text.vcpus, "N,…", "only these vCPUs, and no other threads")
      .duration(
          "--min-latency", o.min_latency,
          "a vCPU that does not get on for so long stalls (default 10ms); main thread and iothreads: ten "
          "times, other threads: a hundred times as long")
      .duration("-i,--interval", o.interval, "a table after each of these times, such as 1s")
      .duration("-d,--duration", o.duration, "end after this time, such as 10s")
      .number("--top", o.top, "N",
              "so many stalls at the end, and at most so many told a second (default 10)")
      .flag("--json", o.json, "one JSON document at the end")
      .text("-o,--output", o.output, "FILE",
            "write times, stalls, signals and slow storage requests to a trace file")
      .flag(
          "--syscall-probes", o.syscall_probes,
          "with -o: follow storage requests also where the kernel takes no programs on functions; that slows "
          "down every system call of the host")
      .texts("--on", text.on, "CONDITION",
             "stall=STATE, stall=any, signal=SIGNAME, signal=any or end (repeatable)")
      .texts("--then", text.then, "ACTION", "'exec COMMAND' or exit (for each --on, or one for all)")
      .number("--max-threads", o.max_threads, "N",
              "room for so many threads (default: as found, and some more)")
      .flag("--check", o.check, "print what works on this host, and end")
      .flag("-q,--quiet", o.quiet, "results only")
      .color(o.color)
      .examples(kExamples);
}

template <class Add>
bool parse_numbers(const std::vector<std::string>& texts, Add add) {
  for (const std::string& text : texts) {
    for (const std::string_view part : split(text, ',')) {
      std::int32_t value{};
      const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
      if (error != std::errc() || end != part.data() + part.size() || value < 0) return false;
      add(value);
    }
  }
  return true;
}

/// The first thing that is wrong, as a sentence; empty if nothing is.
std::string interpret(Options& o, const Text& text) {
  bool positive = true;
  if (!parse_numbers(text.pids,
                     [&](std::int32_t pid) {
                       positive = positive && pid > 0;
                       o.pids.push_back(static_cast<std::uint32_t>(pid));
                     }) ||
      !positive)
    return "-p takes process ids";
  if (!parse_numbers(text.vcpus, [&](std::int32_t vcpu) { o.vcpus.push_back(vcpu); }))
    return "--vcpu takes numbers of vCPUs";
  if (o.all && (!o.pids.empty() || !o.names.empty())) return "-a excludes -p and -n";
  if (o.min_latency < std::chrono::microseconds(100))
    return "--min-latency takes 100us or more: shorter ones are no stalls, and would flood you";
  if (o.min_latency > std::chrono::hours(1)) return "--min-latency takes at most 1h";
  if (o.interval.count() > 0 && o.interval < std::chrono::milliseconds(10)) return "-i takes 10ms or more";
  if (o.top == 0 || o.top > 10000) return "--top takes 1 to 10000";
  if (o.max_threads > 65534) return "--max-threads takes at most 65534";
  auto reactions = pair_reactions(text.on, text.then);
  if (!reactions) return to_string(reactions.error());
  o.reactions = std::move(*reactions);
  return {};
}

}  // namespace

Parsed parse_options(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  Options options;
  Text text;
  cli::Parser parser("kvm-stalls",
                     "Show where each thread of a VM spends its time, and what each stall was.");
  declare(parser, options, text);
  if (const auto code = parser.parse(argc, argv, out, err)) return {std::nullopt, *code};
  if (const std::string wrong = interpret(options, text); !wrong.empty()) {
    err << "kvm-stalls: " << wrong << "\n";
    return {std::nullopt, cli::kUsage};
  }
  for (int i = 0; i < argc; ++i) options.args += (i ? " " : "") + std::string(argv[i]);
  if (options.pids.empty() && options.names.empty()) options.all = true;
  return {std::move(options), 0};
}

}  // namespace vmwhy::kvm_stalls
