// SPDX-License-Identifier: BSD-2-Clause
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <chrono>
#include <ostream>
#include <thread>

#include "cli/cli.hpp"
#include "clock/clock.hpp"
#include "core/text.hpp"
#include "tools/vm-trace/format_record.hpp"
#include "tools/vm-trace/vm_trace.hpp"
#include "trace/schema.hpp"

namespace vmwhy::vm_trace {
namespace {

constexpr std::chrono::milliseconds kFollowInterval{100};

struct Filter {
  std::vector<std::uint16_t> types;  // Empty: all.
  std::optional<std::uint32_t> vm;

  bool passes(const trace::RecordView& record) const {
    if (vm && record.header.vm != *vm) return false;
    return types.empty() || std::find(types.begin(), types.end(), record.header.type) != types.end();
  }
};

template <class T>
bool parse_number(const std::string& text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

std::string known_types() {
  std::string names;
  for (const auto& info : trace::schema()) names += (names.empty() ? "" : ", ") + std::string(info.name);
  return names;
}

std::optional<Filter> make_filter(const Options& options, std::ostream& err) {
  Filter filter;
  for (const std::string& type : options.types) {
    const auto all = trace::schema();
    const auto info = std::find_if(all.begin(), all.end(), [&](const auto& i) { return i.name == type; });
    std::uint16_t number = 0;
    if (info != all.end()) {
      filter.types.push_back(static_cast<std::uint16_t>(info->type));
    } else if (parse_number(type, number)) {
      filter.types.push_back(number);
    } else {
      err << "vm-trace: no record type '" << printable(type) << "'; use a number or one of: " << known_types()
          << '\n';
      return std::nullopt;
    }
  }
  if (!options.vm.empty()) {
    std::uint32_t vm = 0;
    if (!parse_number(options.vm, vm)) {
      err << "vm-trace: --vm takes a VM's number in this trace (0: the host), not '" << printable(options.vm)
          << "'\n";
      return std::nullopt;
    }
    filter.vm = vm;
  }
  return filter;
}

class Printer {
 public:
  Printer(std::ostream& out, bool json, Filter filter) : out_(out), json_(json), filter_(std::move(filter)) {}

  void record(const trace::RecordView& record) {
    if (record.type() == trace::RecordType::clock_snapshot) clock_.add(record.as<trace::ClockSnapshot>());
    if (!filter_.passes(record)) return;
    const auto realtime = clock_.to_realtime_ns(record.header.time_ns);
    if (json_)
      out_ << json_safe(boost::json::serialize(json_object(record, realtime))) << '\n';
    else
      out_ << text_line(record, realtime) << '\n';
  }

  // Losses stand where they are told, whatever is filtered.
  void losses(std::uint64_t lost) {
    if (lost == lost_) return;
    if (json_)
      out_ << fmt::format("{{\"type\":\"lost\",\"lost\":{}}}\n", lost - lost_);
    else
      out_ << fmt::format("-- the recorder lost {} records here\n", lost - lost_);
    lost_ = lost;
  }

 private:
  std::ostream& out_;
  bool json_;
  Filter filter_;
  clock::ClockMap clock_;
  std::uint64_t lost_ = 0;
};

}  // namespace

int cat(const std::string& path, const Options& options, std::ostream& out, std::ostream& err) {
  auto filter = make_filter(options, err);
  if (!filter) return cli::kUsage;
  auto opened = trace::Reader::open(path);
  if (!opened) {
    err << "vm-trace: " << printable(to_string(opened.error())) << '\n';
    return cli::kFailed;
  }
  trace::Reader& reader = **opened;
  Printer printer(out, options.json, std::move(*filter));
  while (out) {
    const auto step = reader.next_block();
    printer.losses(reader.report().lost);
    if (step == trace::Reader::Step::records)
      reader.visit([&](const trace::RecordView& r) { printer.record(r); });
    if (step != trace::Reader::Step::end) continue;
    if (!options.follow || reader.report().ended) break;
    out.flush();
    std::this_thread::sleep_for(kFollowInterval);
  }
  out.flush();
  if (!out) return cli::kOk;  // Whoever read it has seen enough.
  return complain(path, reader.report(), err) ? cli::kFailed : cli::kOk;
}

}  // namespace vmwhy::vm_trace
