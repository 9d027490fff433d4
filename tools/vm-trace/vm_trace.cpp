// SPDX-License-Identifier: BSD-2-Clause
#include "tools/vm-trace/vm_trace.hpp"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <map>
#include <ostream>

#include "cli/cli.hpp"
#include "clock/clock.hpp"
#include "core/text.hpp"
#include "tools/vm-trace/format_record.hpp"

namespace vmwhy::vm_trace {
namespace {

constexpr std::string_view kExamples =
    "  vm-trace info bug.vmt\n"
    "  vm-trace cat --type qmp_message --vm 1 bug.vmt\n"
    "  vm-trace cat --json bug.vmt | jq 'select(.type == \"node_file\")'\n"
    "  vm-trace cat --follow bug.vmt\n"
    "  vm-trace verify bug.vmt || vm-trace recover bug.vmt mended.vmt";

// What info and verify find out in one pass over a file.
struct Summary {
  trace::ReadReport report;
  boost::json::object meta;
  std::map<std::uint16_t, std::uint64_t> records;
  std::map<std::uint32_t, std::string> vms;  // Number to name.
  std::optional<std::int64_t> first_realtime_ns, last_realtime_ns;

  bool damaged() const { return report.damaged_blocks != 0 || report.damaged_bytes != 0; }
  bool intact() const { return !damaged() && report.ended; }
};

std::string vm_name(std::string_view document) {
  boost::system::error_code error;
  const auto value = boost::json::parse(document, error);
  if (error || !value.is_object()) return {};
  const auto* name = value.get_object().if_contains("name");
  return name != nullptr && name->is_string() ? std::string(name->get_string()) : std::string();
}

std::optional<Summary> summarise(const std::string& path, std::ostream& err) {
  auto opened = trace::Reader::open(path);
  if (!opened) {
    err << "vm-trace: " << printable(to_string(opened.error())) << '\n';
    return std::nullopt;
  }
  Summary summary;
  clock::ClockMap clock;
  (*opened)->for_each([&](const trace::RecordView& record) {
    ++summary.records[record.header.type];
    if (record.type() == trace::RecordType::clock_snapshot) clock.add(record.as<trace::ClockSnapshot>());
    if (record.type() == trace::RecordType::vm_seen) summary.vms[record.header.vm] = vm_name(record.text);
  });
  summary.report = (*opened)->report();
  summary.meta = (*opened)->meta();
  if (summary.report.records != 0) {
    summary.first_realtime_ns = clock.to_realtime_ns(summary.report.first_ns);
    summary.last_realtime_ns = clock.to_realtime_ns(summary.report.last_ns);
  }
  return summary;
}

boost::json::value time_json(const std::optional<std::int64_t>& realtime_ns) {
  if (!realtime_ns) return nullptr;
  return boost::json::string(iso_time(*realtime_ns));
}

std::string to_json(const std::string& path, const Summary& summary) {
  const trace::ReadReport& report = summary.report;
  boost::json::object records;
  for (const auto& entry : summary.records) records[type_name(entry.first)] = entry.second;
  boost::json::array vms;
  for (const auto& entry : summary.vms) vms.push_back({{"vm", entry.first}, {"name", entry.second}});
  boost::json::array notes;
  for (const auto& note : report.notes) notes.push_back(boost::json::string(note));
  boost::json::object meta = summary.meta;
  meta.erase("schema");
  const boost::json::object document{{"schema", "vmwhy.trace-info/1"},
                                     {"trace", path},
                                     {"version", fmt::format("{}.{}", report.major, report.minor)},
                                     {"file_bytes", report.file_bytes},
                                     {"blocks", report.blocks},
                                     {"records", report.records},
                                     {"records_by_type", std::move(records)},
                                     {"vms", std::move(vms)},
                                     {"first_ns", report.first_ns},
                                     {"last_ns", report.last_ns},
                                     {"begin_time", time_json(summary.first_realtime_ns)},
                                     {"end_time", time_json(summary.last_realtime_ns)},
                                     {"lost_records", report.lost},
                                     {"skipped_blocks", report.skipped_blocks},
                                     {"damaged_blocks", report.damaged_blocks},
                                     {"damaged_bytes", report.damaged_bytes},
                                     {"ended", report.ended},
                                     {"intact", summary.intact()},
                                     {"notes", std::move(notes)},
                                     {"meta", std::move(meta)}};
  return json_safe(boost::json::serialize(document));
}

// A value of meta as it is shown to a person.
std::string shown(const boost::json::value& value) {
  if (value.is_string()) return printable(std::string_view(value.get_string()));
  if (value.is_array()) {
    std::string words;
    for (const auto& item : value.get_array()) words += (words.empty() ? "" : " ") + shown(item);
    return words;
  }
  return printable(boost::json::serialize(value));
}

void print_info(const std::string& path, const Summary& summary, std::ostream& out) {
  const trace::ReadReport& report = summary.report;
  const auto line = [&](std::string_view name, std::string_view text) {
    out << fmt::format("{:<10} {}\n", name, text);
  };
  line("trace", fmt::format("{}: {}, {} blocks, format {}.{}", printable(path),
                            human_bytes(report.file_bytes), report.blocks, report.major, report.minor));
  for (const auto& member : summary.meta) {
    if (member.key() != "schema") line(printable(member.key()), shown(member.value()));
  }
  if (report.records != 0) {
    const auto span = static_cast<std::int64_t>(report.last_ns - report.first_ns);
    const std::string wall =
        summary.first_realtime_ns && summary.last_realtime_ns
            ? iso_time(*summary.first_realtime_ns) + " to " + iso_time(*summary.last_realtime_ns)
            : std::string("wall clock not known");
    line("time", fmt::format("{} ({})", wall, human_duration(span)));
  }
  for (const auto& entry : summary.vms)
    line(fmt::format("vm {}", entry.first),
         entry.second.empty() ? "without a name" : printable(entry.second));
  line("records", fmt::format("{}, {} lost", report.records, report.lost));
  for (const auto& entry : summary.records)
    out << fmt::format("{:>20}  {}\n", entry.second, type_name(entry.first));
  line("health", summary.intact() ? "intact" : summary.damaged() ? "damaged" : "not ended");
  for (const auto& note : report.notes) out << "           " << printable(note) << '\n';
}

int info(const std::string& path, const Options& options, std::ostream& out, std::ostream& err) {
  const auto summary = summarise(path, err);
  if (!summary) return cli::kFailed;
  if (options.json)
    out << to_json(path, *summary) << '\n';
  else
    print_info(path, *summary, out);
  if (!summary->damaged()) return cli::kOk;
  err << "vm-trace: " << printable(path) << " is damaged; mend it with: vm-trace recover " << printable(path)
      << " NEW.vmt\n";
  return cli::kFailed;
}

int verify(const std::string& path, const Options& options, std::ostream& out, std::ostream& err) {
  const auto summary = summarise(path, err);
  if (!summary) return cli::kFailed;
  const trace::ReadReport& report = summary->report;
  if (options.json) {
    out << to_json(path, *summary) << '\n';
  } else {
    out << fmt::format(
        "{}: {}: {} records in {} blocks, {} damaged blocks, {} damaged bytes, {} lost records\n",
        printable(path),
        summary->intact()    ? "intact"
        : summary->damaged() ? "damaged"
                             : "not ended",
        report.records, report.blocks, report.damaged_blocks, report.damaged_bytes, report.lost);
    for (const auto& note : report.notes) out << "  " << printable(note) << '\n';
    if (!summary->intact()) out << "  mend it with: vm-trace recover " << printable(path) << " NEW.vmt\n";
  }
  return summary->intact() ? cli::kOk : cli::kFailed;
}

int recover(const std::string& from, const std::string& to, std::ostream& out, std::ostream& err) {
  const auto report = trace::recover(from, to);
  if (!report) {
    err << "vm-trace: " << printable(to_string(report.error())) << '\n';
    return cli::kFailed;
  }
  out << fmt::format("{}: {} records of {} good blocks; {} damaged blocks ({} bytes) are left behind\n",
                     printable(to), report->records, report->blocks, report->damaged_blocks,
                     report->damaged_bytes);
  return cli::kOk;
}

int usage(std::ostream& err, std::string_view what) {
  err << "vm-trace: " << what << "; see vm-trace --help\n";
  return cli::kUsage;
}

}  // namespace

bool complain(const std::string& path, const trace::ReadReport& report, std::ostream& err) {
  for (const auto& note : report.notes)
    err << "vm-trace: " << printable(path) << ": " << printable(note) << '\n';
  const bool damaged = report.damaged_blocks != 0 || report.damaged_bytes != 0;
  if (damaged)
    err << "vm-trace: " << printable(path) << " is damaged; mend it with: vm-trace recover "
        << printable(path) << " NEW.vmt\n";
  return damaged;
}

std::optional<int> parse(int argc, const char* const* argv, Options& options, std::ostream& out,
                         std::ostream& err) {
  cli::Parser parser("vm-trace", "Looks into trace files, checks them, and mends damaged ones.");
  parser
      .positional("command", options.words,
                  "info FILE: what is in it\ncat FILE: its records\nverify FILE: whether it is whole\n"
                  "recover FILE NEW: a file of all that can be read",
                  true)
      .flag("--json", options.json, "JSON: one document; cat: one object per line")
      .flag("--follow", options.follow, "cat: go on until the recording ends")
      .texts("--type", options.types, "NAME", "cat: only this record type (repeatable; name or number)")
      .text("--vm", options.vm, "N", "cat: only records of VM N of the trace; 0: the host")
      .examples(std::string(kExamples));
  return parser.parse(argc, argv, out, err);
}

int run(const Options& options, std::ostream& out, std::ostream& err) {
  if (options.words.empty()) return usage(err, "a command is missing: info, cat, verify or recover");
  const std::string& command = options.words[0];
  const std::size_t files = options.words.size() - 1;
  const bool is_recover = command == "recover";
  if (!is_recover && command != "info" && command != "cat" && command != "verify")
    return usage(err, fmt::format("no command '{}': use info, cat, verify or recover", printable(command)));
  if (files != (is_recover ? 2 : 1))
    return usage(err, is_recover ? "recover takes two files: the damaged one and the new one"
                                 : fmt::format("{} takes one file", command));
  if (command != "cat" && (options.follow || !options.types.empty() || !options.vm.empty()))
    return usage(err, "--follow, --type and --vm belong to cat");
  const std::string& path = options.words[1];
  if (is_recover) return recover(path, options.words[2], out, err);
  if (command == "info") return info(path, options, out, err);
  if (command == "verify") return verify(path, options, out, err);
  return cat(path, options, out, err);
}

}  // namespace vmwhy::vm_trace
