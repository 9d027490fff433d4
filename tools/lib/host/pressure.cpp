// SPDX-License-Identifier: BSD-2-Clause
#include "host/pressure.hpp"

#include "host/proc_file.hpp"

namespace vmwhy::host {
namespace {

std::string_view field(std::string_view line, std::string_view key) {
  const auto at = line.find(key);
  if (at == std::string_view::npos) return {};
  line.remove_prefix(at + key.size());
  return line.substr(0, line.find(' '));
}

PressureLine parse_line(std::string_view line) {
  PressureLine out;
  out.total_us = parse_u64(field(line, "total=")).value_or(0);
  const std::string_view avg = field(line, "avg10=");
  const auto dot = avg.find('.');
  const std::string_view fraction = dot == std::string_view::npos ? "" : avg.substr(dot + 1, 2);
  out.avg10 = static_cast<std::uint32_t>(parse_u64(avg.substr(0, dot)).value_or(0) * 100 +
                                         parse_u64(fraction).value_or(0));
  return out;
}

Result<trace::OwnedRecord> record(const std::string& base, const std::string& suffix, const std::string& name,
                                  std::uint64_t time_ns, std::uint32_t vm) {
  const auto cpu = read_small_file(base + "cpu" + suffix, 1024);
  if (!cpu) return cpu.error();
  const auto memory = read_small_file(base + "memory" + suffix, 1024);
  if (!memory) return memory.error();
  const auto io = read_small_file(base + "io" + suffix, 1024);
  if (!io) return io.error();
  const PressureFile c = parse_pressure(*cpu), m = parse_pressure(*memory), i = parse_pressure(*io);
  trace::Pressure out{};
  out.cpu_some_us = c.some.total_us;
  out.memory_some_us = m.some.total_us;
  out.memory_full_us = m.full.total_us;
  out.io_some_us = i.some.total_us;
  out.io_full_us = i.full.total_us;
  out.cpu_some_avg10 = c.some.avg10;
  out.memory_some_avg10 = m.some.avg10;
  out.memory_full_avg10 = m.full.avg10;
  out.io_some_avg10 = i.some.avg10;
  out.io_full_avg10 = i.full.avg10;
  return trace::make_record(time_ns, vm, out, name);
}

}  // namespace

PressureFile parse_pressure(std::string_view text) {
  PressureFile out;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.starts_with("some ")) out.some = parse_line(line);
    if (line.starts_with("full ")) out.full = parse_line(line);
  }
  return out;
}

Result<trace::OwnedRecord> host_pressure(std::uint64_t time_ns, const std::string& proc) {
  return record(proc + "/pressure/", "", "", time_ns, 0);
}

Result<trace::OwnedRecord> cgroup_pressure(const std::string& folder, const std::string& name,
                                           std::uint64_t time_ns, std::uint32_t vm) {
  return record(folder + "/", ".pressure", name, time_ns, vm);
}

}  // namespace vmwhy::host
