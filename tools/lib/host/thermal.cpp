// SPDX-License-Identifier: BSD-2-Clause
#include "host/thermal.hpp"

#include <charconv>
#include <filesystem>

#include "clock/clock.hpp"
#include "core/text.hpp"
#include "host/proc_file.hpp"
#include "trace/thread_records.hpp"

namespace vmwhy::host {

ThermalWatch::ThermalWatch(std::string folder) : folder_(std::move(folder)), last_ns_(clock::now_ns()) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder_, ignored)) {
    const std::string name = entry.path().filename();
    std::uint32_t cpu = 0;
    if (!name.starts_with("cpu")) continue;
    const auto [end, error] = std::from_chars(name.data() + 3, name.data() + name.size(), cpu);
    if (error != std::errc() || end != name.data() + name.size()) continue;
    if (const auto counters = read(cpu)) last_[cpu] = *counters;
  }
}

std::optional<ThermalWatch::Counters> ThermalWatch::read(std::uint32_t cpu) const {
  const std::string folder = folder_ + "/cpu" + std::to_string(cpu) + "/thermal_throttle/";
  const auto number = [&](const char* name) {
    const std::string text = read_or_empty(folder + name, 64);
    return parse_u64(trim(text));
  };
  const auto core = number("core_throttle_count");
  if (!core) return std::nullopt;
  // The times came with Linux 5.6.
  return Counters{*core, number("package_throttle_count").value_or(0),
                  number("core_throttle_total_time_ms").value_or(0),
                  number("package_throttle_total_time_ms").value_or(0)};
}

std::vector<trace::OwnedRecord> ThermalWatch::look(std::uint64_t now_ns) {
  std::vector<trace::OwnedRecord> out;
  const std::uint64_t window_ns = now_ns - std::min(now_ns, last_ns_);
  last_ns_ = now_ns;
  const auto grown = [](std::uint64_t before, std::uint64_t now) { return now > before ? now - before : 0; };
  for (auto& [cpu, last] : last_) {
    const auto counters = read(cpu);
    if (!counters) continue;
    const Counters now = *counters;
    trace::CpuThrottle record{};
    record.window_ns = window_ns;
    record.core_events = grown(last.core, now.core);
    record.package_events = grown(last.package, now.package);
    record.core_ms = grown(last.core_ms, now.core_ms);
    record.package_ms = grown(last.package_ms, now.package_ms);
    record.cpu = cpu;
    last = now;
    if (record.core_events || record.package_events || record.core_ms || record.package_ms)
      out.push_back(trace::make_record(now_ns, 0, record));
  }
  return out;
}

}  // namespace vmwhy::host
