// SPDX-License-Identifier: BSD-2-Clause
#include "host/process.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstring>

namespace vmwhy::host {
namespace {

std::uint64_t ticks_to_ns(std::uint64_t ticks) {
  static const auto per_second = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  return ticks / per_second * 1'000'000'000u + ticks % per_second * (1'000'000'000u / per_second);
}

std::uint64_t hex_of(std::string_view status, std::string_view key) {
  const std::string_view text = value_of(status, key);
  std::uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return value;
}

}  // namespace

bool in_first_pid_namespace() {
  // Its inode is the same on every Linux.
  constexpr ino_t kFirst = 0xeffffffc;
  struct stat space {};
  return ::stat("/proc/self/ns/pid", &space) != 0 || space.st_ino == kFirst;
}

std::optional<StatLine> parse_stat(std::string_view text) {
  const auto open = text.find(" (");
  const auto close = text.rfind(") ");
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) return std::nullopt;
  const auto pid = parse_u64(text.substr(0, open));
  if (!pid) return std::nullopt;
  StatLine out;
  out.pid = static_cast<std::uint32_t>(*pid);
  out.comm = text.substr(open + 2, close - open - 2);
  text.remove_prefix(close + 2);
  // Fields from the third on: state is [0], ppid [1], utime [11], stime [12], num_threads [17],
  // starttime [19], rss [21], exit_code [49].
  std::array<std::string_view, 50> fields;
  std::size_t count = 0;
  while (!text.empty() && count < fields.size()) {
    const auto end = text.find_first_of(" \n");
    fields[count++] = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  if (count < 22 || fields[0].size() != 1) return std::nullopt;
  const auto number = [&](std::size_t i) { return parse_u64(fields[i]).value_or(0); };
  out.state = fields[0][0];
  out.ppid = static_cast<std::uint32_t>(number(1));
  out.cpu_ns = ticks_to_ns(number(11) + number(12));
  out.threads = static_cast<std::uint32_t>(number(17));
  out.start_ns = ticks_to_ns(number(19));
  static const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  out.rss_bytes = number(21) * page;
  out.exit_code = count > 49 ? static_cast<std::int32_t>(number(49)) : 0;
  return out;
}

ProcessWatch::ProcessWatch(std::uint32_t pid, std::string proc)
    : pid_(pid), proc_(std::move(proc)), stat_(proc_ + "/" + std::to_string(pid) + "/stat") {}

std::optional<StatLine> ProcessWatch::sample() const {
  const auto text = stat_.read();
  if (!text) return std::nullopt;
  return parse_stat(*text);
}

trace::OwnedRecord ProcessWatch::record(std::uint64_t time_ns, std::uint32_t vm) const {
  trace::ProcessState out{};
  out.pid = pid_;
  std::string comm;
  if (const auto stat = sample()) {
    comm = stat->comm;
    out.state = static_cast<unsigned char>(stat->state);
    out.threads = stat->threads;
    out.rss_bytes = stat->rss_bytes;
    out.cpu_ns = stat->cpu_ns;
    const std::string status = read_or_empty(proc_ + "/" + std::to_string(pid_) + "/status");
    out.tracer_pid = static_cast<std::uint32_t>(number_of(status, "TracerPid"));
    out.pending = hex_of(status, "SigPnd");
    out.shared_pending = hex_of(status, "ShdPnd");
    if (out.tracer_pid != 0) {
      const std::string tracer = comm_of(out.tracer_pid, proc_);
      std::memcpy(out.tracer_comm, tracer.data(), std::min(tracer.size(), sizeof(out.tracer_comm)));
    }
  }
  return trace::make_record(time_ns, vm, out, comm);
}

std::uint32_t tracer_of(std::uint32_t pid, const std::string& proc) {
  return static_cast<std::uint32_t>(
      number_of(read_or_empty(proc + "/" + std::to_string(pid) + "/status"), "TracerPid"));
}

std::string comm_of(std::uint32_t pid, const std::string& proc) {
  std::string comm = read_or_empty(proc + "/" + std::to_string(pid) + "/comm", 64);
  if (!comm.empty() && comm.back() == '\n') comm.pop_back();
  return comm;
}

}  // namespace vmwhy::host
