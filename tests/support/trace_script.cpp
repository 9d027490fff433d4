// SPDX-License-Identifier: BSD-2-Clause
#include "tests/support/trace_script.hpp"

#include <sys/stat.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <sstream>

#include "core/text.hpp"
#include "stalls/times.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/trace_script_io.hpp"
#include "tests/support/trace_script_line.hpp"
#include "trace/tap_records.hpp"
#include "trace/writer.hpp"

namespace vmwhy::test {
namespace {

namespace json = boost::json;
using trace::OwnedRecord;

OwnedRecord message(const Line& line, trace::QmpKind kind, const std::string& command,
                    const json::value& body) {
  trace::QmpMessage m{};
  m.kind = static_cast<std::uint32_t>(kind);
  m.wall_us = -1;
  m.link = static_cast<std::uint32_t>(line.number("link"));
  if (kind == trace::QmpKind::return_ || kind == trace::QmpKind::error)
    m.sent_ns = at(line.number("sent", line.time - 0.0005));
  if (kind == trace::QmpKind::event && line.value("stamp") != "none")
    m.wall_us = wall_us(line.number("stamp", line.time) + line.number("step"));
  return trace::make_record(at(line.time), line.vm(), m, trace::join_text({command, json::serialize(body)}));
}

OwnedRecord event(const Line& line) {
  json::object body{{"event", line.word(0)}};
  if (!line.data.is_null()) body["data"] = line.data;
  return message(line, trace::QmpKind::event, "", body);
}

OwnedRecord status(const Line& line) {
  const bool running = line.value("running", line.word(0) == "running" ? "yes" : "no") == "yes";
  return message(line, trace::QmpKind::return_, "query-status",
                 json::object{{"return", json::object{{"status", line.word(0)}, {"running", running}}}});
}

OwnedRecord link(const Line& line) {
  trace::QmpLink l{};
  l.state = named(line.word(0), {{"ready", 1},
                                 {"refused", 2},
                                 {"connect_timeout", 3},
                                 {"greeting_missing", 4},
                                 {"negotiation_timeout", 5},
                                 {"reply_overdue", 6},
                                 {"reply_late", 7},
                                 {"closed", 8},
                                 {"not_qmp", 9},
                                 {"held", 10}});
  l.waited_ns = span(line.number("waited"));
  l.link = static_cast<std::uint32_t>(line.number("link"));
  return trace::make_record(at(line.time), line.vm(), l,
                            trace::join_text({line.value("address", "/run/web1.qmp"), line.value("detail")}));
}

OwnedRecord peer(const Line& line) {
  trace::QmpPeer p{};
  p.state =
      named(line.word(0), {{"connected", 1}, {"closed", 2}, {"blocked", 3}, {"flowing", 4}, {"ended", 5}});
  p.link = static_cast<std::uint32_t>(line.number("link", trace::kFirstHeardLink));
  p.pid = static_cast<std::uint32_t>(line.number("pid", 812));
  const std::string comm = line.value("comm", "libvirtd");
  return trace::make_record(
      at(line.time), line.vm(), p,
      trace::join_text({line.value("monitor", "/var/lib/libvirt/qemu/domain-1-web1/monitor.sock"), comm,
                        line.value("args", "/usr/sbin/" + comm), "root", "", line.value("parents")}));
}

OwnedRecord gap(const Line& line) {
  trace::QmpGap g{};
  g.bytes = line.bytes("bytes", 100);
  g.link = static_cast<std::uint32_t>(line.number("link", trace::kFirstHeardLink));
  return trace::make_record(at(line.time), line.vm(), g);
}

OwnedRecord call(const Line& line) {
  trace::QemuCall c{};
  for (int i = 0; i < 4; ++i) c.arguments[i] = line.number(("arg" + std::to_string(i)).c_str(), 0);
  c.pid = 4242;
  c.tid = static_cast<std::uint32_t>(line.number("tid", 4242));
  std::string names = line.value("names"), callers = line.value("callers");
  std::replace(names.begin(), names.end(), ';', '\n');
  std::replace(callers.begin(), callers.end(), ';', '\n');
  return trace::make_record(at(line.time), line.vm(), c,
                            trace::join_text({line.word(0), line.text, names, callers}));
}

OwnedRecord command(const Line& line) {
  json::object body{{"execute", line.word(0)}};
  if (!line.data.is_null()) body["arguments"] = line.data;
  if (line.has("id")) body["id"] = line.value("id");
  return message(line, trace::QmpKind::command, line.word(0), body);
}

OwnedRecord file(const Line& line) {
  trace::NodeFile f{};
  f.rdev = line.device("block");
  f.path_rdev = line.has("path_block") ? line.device("path_block") : f.rdev;
  f.size_bytes = line.bytes("bytes");
  f.mode = f.rdev != 0 ? S_IFBLK | 0660 : S_IFREG | 0600;
  f.fd = static_cast<std::uint32_t>(line.number("fd", 11));
  f.ino = 17;
  f.waited_ns = span(line.number("waited", 0.0002));
  if (f.rdev == 0) {
    f.fs_size_bytes = line.bytes("size", 4 << 20);
    f.fs_free_bytes = line.bytes("free");
    f.fs_avail_bytes = line.bytes("avail", f.fs_free_bytes);
    f.fs_files = line.bytes("inodes", 1000);
    f.fs_files_free = line.bytes("inodes_free", 900);
    f.fs_magic = 0x01021994;
  }
  std::stringstream flags(line.value("flags"));
  for (std::string flag; std::getline(flags, flag, ',');)
    f.flags |= named(flag, {{"deleted", 1},
                            {"path-missing", 2},
                            {"path-differs", 4},
                            {"sys-missing", 8},
                            {"unreachable", 16},
                            {"stat-failed", 32},
                            {"read-only", 64},
                            {"no-fd", 128}});
  return trace::make_record(
      at(line.time), line.vm(), f,
      trace::join_text(
          {line.value("node", "d0"), line.value("path", "/srv/d.qcow2"),
           f.rdev != 0 ? "" : line.value("mount", "/srv"), f.rdev != 0 ? "" : line.value("fs", "tmpfs"),
           f.rdev != 0 ? "" : line.value("source", "tmpfs"), line.value("devices"), line.value("quotas")}));
}

OwnedRecord process(const Line& line) {
  trace::ProcessState p{};
  p.pid = static_cast<std::uint32_t>(line.number("pid", 4242));
  p.state = static_cast<std::uint8_t>(line.word(0).c_str()[0]);
  p.tracer_pid = static_cast<std::uint32_t>(line.number("tracer"));
  p.threads = 4;
  p.rss_bytes = line.bytes("rss", 64u << 20);
  std::strncpy(p.tracer_comm, line.value("tracer_comm").c_str(), sizeof(p.tracer_comm) - 1);
  return trace::make_record(at(line.time), line.vm(), p, "qemu-system-x86");
}

OwnedRecord kvm_failure(const Line& line) {
  trace::KvmFailure f{};
  f.user_code = named(line.word(0), {{"internal-error", 17}, {"fail-entry", 9}});
  f.detail = static_cast<std::uint64_t>(line.number("detail"));
  f.last_code = static_cast<std::uint32_t>(line.number("last"));
  f.tid = 4250;
  f.vcpu = static_cast<std::int32_t>(line.number("vcpu"));
  f.isa = 1;
  return trace::make_record(at(line.time), line.vm(), f, line.text);
}

OwnedRecord kvm_exits(const Line& line) {
  trace::KvmExitSummary s{};
  s.kind = named(line.word(0), {{"kvm", 0}, {"userspace", 1}, {"pio", 2}, {"mmio", 3}});
  s.window_ns = span(line.number("window", 1));
  s.code = static_cast<std::uint64_t>(line.number("code"));
  s.count = s.timed = static_cast<std::uint64_t>(line.number("count"));
  s.total_ns = span(line.number("total"));
  s.qemu_ns = span(line.number("qemu"));
  s.tid = 4250;
  s.vcpu = static_cast<std::int32_t>(line.number("vcpu"));
  s.isa = 1;
  s.halt = line.value("halt") == "yes";
  return trace::make_record(at(line.time), line.vm(), s,
                            trace::join_text({line.text, "", line.value("device")}));
}

std::vector<std::string> parts(const std::string& text, char separator) {
  std::vector<std::string> out;
  for (const std::string_view part : split(text, separator)) out.emplace_back(part);
  return out;
}

stalls::State state_named(const std::string& name) {
  for (std::uint32_t i = 0; i < stalls::kStates; ++i)
    if (stalls::name_of(static_cast<stalls::State>(i)) == name) return static_cast<stalls::State>(i);
  return stalls::State::unknown;
}

OwnedRecord stall(const Line& line) {
  stalls::Stall s;
  s.record.length_ns = span(line.number("length"));
  s.record.role = named(line.word(0), {{"other", 0}, {"main", 1}, {"vcpu", 2}, {"iothread", 3}});
  const stalls::State state = state_named(line.value("state"));
  std::uint64_t rest = s.record.length_ns;
  if (line.has("also")) {
    const std::vector<std::string> also = parts(line.value("also"), ':');
    const std::uint64_t part = span(std::strtod(also.back().c_str(), nullptr));
    s.times[static_cast<std::size_t>(state_named(also.front()))] += part;
    rest -= part;
  }
  s.times[static_cast<std::size_t>(state)] += rest;
  s.record.times = stalls::from_array(s.times);
  s.record.state = static_cast<std::uint32_t>(state);
  s.record.pid = 4242;
  s.record.tid = static_cast<std::uint32_t>(line.number("tid", line.word(0) == "main" ? 4242 : 4250));
  s.record.vcpu = static_cast<std::int32_t>(line.number("vcpu", line.word(0) == "vcpu" ? 0 : -1));
  s.record.cpu = static_cast<std::uint32_t>(line.number("cpu"));
  s.record.exit_code = UINT32_MAX;
  s.record.user_code = s.record.syscall = -1;
  if (line.value("ongoing") == "yes") s.record.flags |= trace::kStallOngoing;
  s.comm = line.word(0) == "vcpu" ? "CPU 0/KVM" : "qemu-system-x86";
  s.call = line.value("call");
  s.descriptor = line.value("path");
  s.wchan = line.value("wchan");
  if (!s.call.empty()) s.record.block_ns = rest;
  if (line.has("culprit")) {
    for (const std::string& one : parts(line.value("culprit"), ',')) {
      const std::vector<std::string> fields = parts(one, ':');
      if (fields.size() != 3) continue;
      const auto pid = static_cast<std::uint32_t>(std::strtoul(fields[1].c_str(), nullptr, 10));
      s.culprits.push_back({span(std::strtod(fields[2].c_str(), nullptr)), pid, pid, fields[0]});
    }
  }
  s.record.lock_owner = static_cast<std::uint32_t>(line.number("owner"));
  if (s.record.lock_owner != 0) s.lock_owner = s.record.lock_owner == 4242 ? "the main thread" : "vCPU 0";
  for (const std::string& function : parts(line.value("user"), ','))
    if (!function.empty()) s.user_stack.push_back({function + "+0x10", "ab12", 0x5000});
  if (!line.text.empty()) s.kernel_stack = parts(line.text, ' ');
  return trace::make_record(at(line.time), line.vm(), s.record, stalls::stall_text(s));
}

OwnedRecord signal(const Line& line) {
  trace::ProcessSignal s{};
  const std::vector<std::string> sender = parts(line.value("sender", "bash:999"), ':');
  s.pid = s.tid = 4242;
  s.what = line.word(0) == "victim" ? 2 : 1;
  s.signal = std::atoi(line.word(0).c_str());
  s.code = static_cast<std::int32_t>(line.number("code"));
  s.sender_pid = s.sender_tid = static_cast<std::uint32_t>(std::strtoul(sender.back().c_str(), nullptr, 10));
  s.sender_uid = static_cast<std::uint32_t>(line.number("uid"));
  return trace::make_record(at(line.time), line.vm(), s, sender.front());
}

OwnedRecord thread(const Line& line) {
  trace::ThreadState t{};
  t.pid = 4242;
  t.tid = static_cast<std::uint32_t>(line.number("tid", 4242));
  t.state = static_cast<std::uint8_t>(line.word(0).c_str()[0]);
  t.role = named(line.value("role"), {{"main", 1}, {"vcpu", 2}, {"iothread", 3}});
  t.vcpu = static_cast<std::int32_t>(line.number("vcpu", -1));
  t.syscall = -1;
  t.cpu_ns = span(line.number("cpu", 1));
  t.switches = static_cast<std::uint64_t>(line.number("switches", 10));
  return trace::make_record(at(line.time), line.vm(), t,
                            trace::join_text({line.value("comm", "qemu-system-x86"), line.value("wchan"),
                                              unescape(line.value("stack")), line.value("file")}));
}

OwnedRecord seen(const Line& line) {
  trace::VmSeen s{};
  s.pid = static_cast<std::uint32_t>(line.number("pid", 4242));
  s.start_ns = kScriptBoottimeNs - 60'000'000'000;
  json::object body = line.data.is_object() ? line.data.get_object() : json::object();
  body.emplace("pid", s.pid);
  return trace::make_record(at(line.time), line.vm(), s, json::serialize(body));
}

OwnedRecord end(const Line& line) {
  trace::VmEnd e{};
  e.pid = 4242;
  e.how = named(line.word(0), {{"exited", 1}, {"signaled", 2}});
  e.status = static_cast<std::int32_t>(std::strtol(line.word(1).c_str(), nullptr, 10));
  e.core_dumped = line.value("core") == "yes";
  return trace::make_record(at(line.time), line.vm(), e, line.text);
}

OwnedRecord clock_line(const Line& line) {
  trace::ClockSnapshot c{};
  c.boottime_ns = at(line.time);
  c.monotonic_ns = c.boottime_ns - span(line.number("suspended"));
  c.realtime_ns = wall_us(line.time + line.number("realtime")) * 1000;
  c.width_ns = 100;
  c.reason =
      static_cast<std::uint32_t>(line.has("realtime") ? trace::ClockReason::step : trace::ClockReason::tick);
  return trace::make_record(at(line.time), 0, c);
}

OwnedRecord throttle(const Line& line) {
  trace::CpuThrottle t{};
  t.window_ns = span(line.number("window", 1));
  t.core_events = static_cast<std::uint64_t>(line.number("core"));
  t.package_events = static_cast<std::uint64_t>(line.number("package"));
  t.core_ms = t.package_ms = static_cast<std::uint64_t>(line.number("ms"));
  t.cpu = static_cast<std::uint32_t>(line.number("cpu"));
  return trace::make_record(at(line.time), 0, t);
}

OwnedRecord sensor(const Line& line) {
  trace::Sensor s{};
  s.state = named(line.word(1), {{"off", 0}, {"on", 1}, {"failed", 2}, {"partial", 3}});
  return trace::make_record(at(line.time), static_cast<std::uint32_t>(line.number("vm")), s,
                            trace::join_text({line.word(0), line.value("detail"), line.value("remedy")}));
}

OwnedRecord cgroup(const Line& line) {
  trace::CgroupState c{};
  c.memory_max_bytes = line.bytes("max", UINT64_MAX);
  c.memory_current_bytes = line.bytes("used");
  c.quota_us = static_cast<std::int64_t>(line.number("quota", -1));
  c.period_us = static_cast<std::uint64_t>(line.number("period"));
  c.throttled_us = static_cast<std::uint64_t>(line.number("throttled"));
  c.throttled_periods = static_cast<std::uint64_t>(line.number("periods"));
  c.freezer = named(line.word(0), {{"thawed", 1}, {"freezing", 2}, {"frozen", 3}});
  c.version = static_cast<std::uint32_t>(line.number("version", 2));
  return trace::make_record(
      at(line.time), line.vm(), c,
      trace::join_text({line.value("path", "/machine/web1"), line.value("cpu"), line.value("memory")}));
}

OwnedRecord collected(const Line& line) {
  trace::Collected c{};
  c.began_ns = at(line.number("began", line.time - 0.001));
  c.overdue = static_cast<std::uint32_t>(line.number("overdue"));
  return trace::make_record(at(line.time), line.vm(), c, line.text);
}

OwnedRecord loss(const Line& line) {
  trace::Loss l{};
  l.lost = std::strtoull(line.word(0).c_str(), nullptr, 10);
  l.first_ns = l.last_ns = at(line.time);
  return trace::make_record(at(line.time), 0, l, line.value("source", "queue"));
}

OwnedRecord watch(const Line& line) {
  trace::Watch w{};
  w.event = named(line.word(0), {{"begin", 1}, {"end", 2}});
  return trace::make_record(at(line.time), static_cast<std::uint32_t>(line.number("vm")), w, line.text);
}

bool make(const Line& line, OwnedRecord& out) {
  const std::string& type = line.type;
  if (type == "event")
    out = event(line);
  else if (type == "status")
    out = status(line);
  else if (type == "reply")
    out = message(line, trace::QmpKind::return_, line.word(0), json::object{{"return", line.data}});
  else if (type == "error")
    out = message(line, trace::QmpKind::error, line.word(0),
                  json::object{{"error", json::object{{"class", "GenericError"}, {"desc", line.text}}}});
  else if (type == "command")
    out = command(line);
  else if (type == "peer")
    out = peer(line);
  else if (type == "call")
    out = call(line);
  else if (type == "owner")
    out = trace::make_record(at(line.time), line.vm(), trace::OwnerState{},
                             trace::join_text({line.word(0), line.text}));
  else if (type == "gap")
    out = gap(line);
  else if (type == "withheld")
    out = trace::make_record(at(line.time), line.vm(), trace::QmpWithheld{},
                             trace::join_text({line.word(0), line.text}));
  else if (type == "link")
    out = link(line);
  else if (type == "file")
    out = file(line);
  else if (type == "io")
    out = io(line);
  else if (type == "io_stats")
    out = io_stats(line);
  else if (type == "storage_link")
    out = storage_link(line);
  else if (type == "block_failure")
    out = block_failure(line);
  else if (type == "process")
    out = process(line);
  else if (type == "kvm-failure")
    out = kvm_failure(line);
  else if (type == "kvm-exits")
    out = kvm_exits(line);
  else if (type == "stall")
    out = stall(line);
  else if (type == "signal")
    out = signal(line);
  else if (type == "thread")
    out = thread(line);
  else if (type == "seen")
    out = seen(line);
  else if (type == "end")
    out = end(line);
  else if (type == "clock")
    out = clock_line(line);
  else if (type == "throttle")
    out = throttle(line);
  else if (type == "sensor")
    out = sensor(line);
  else if (type == "cgroup")
    out = cgroup(line);
  else if (type == "kmsg")
    out = trace::make_record(at(line.time), 0, trace::KernelLog{0, 3, 0}, line.text);
  else if (type == "log")
    out = trace::make_record(at(line.time), line.vm(), trace::LogTail{0, 4242, 0},
                             trace::join_text({line.value("path", "/var/log/web1.log"), line.text}));
  else if (type == "collected")
    out = collected(line);
  else if (type == "loss")
    out = loss(line);
  else if (type == "watch")
    out = watch(line);
  else
    return false;
  return true;
}

constexpr std::string_view kPreamble = R"(0 clock
0 watch begin
0 sensor qmp on
0 sensor proc on
0 sensor reach on
0 sensor kmsg on
0 seen {"name":"web1","uid":0,"owner":"plain","accelerator":"tcg","monitors":[{"address":"/run/web1.qmp","held":false}]} pid=4242
0 link ready
)";

void add_lines(std::string_view script, ScriptedTrace& out) {
  std::istringstream lines{std::string(script)};
  std::size_t number = 0;
  for (std::string text; std::getline(lines, text);) {
    ++number;
    if (text.empty() || text[0] == '#' || text == "bare") continue;
    if (text.rfind("meta ", 0) == 0) {
      boost::system::error_code error;
      const json::value meta = json::parse(text.substr(5), error);
      if (const json::object* object = meta.if_object())
        for (const auto& member : *object) out.meta[member.key()] = member.value();
      continue;
    }
    Line line;
    std::string error = parse_line(text, line);
    OwnedRecord record;
    if (error.empty() && !make(line, record)) error = "unknown type " + line.type;
    if (!error.empty()) {
      out.error = "line " + std::to_string(number) + ": " + error;
      return;
    }
    out.records.push_back(std::move(record));
  }
}

}  // namespace

ScriptedTrace parse_trace_script(std::string_view script) {
  ScriptedTrace trace;
  trace.meta["host"] = json::object{{"name", "host1"}, {"kernel", "6.1.0"}};
  if (script.substr(0, 5) != "bare\n") add_lines(kPreamble, trace);
  add_lines(script, trace);
  return trace;
}

std::string write_trace(const ScriptedTrace& trace, const std::string& path) {
  std::filesystem::remove(path);
  auto writer = trace::Writer::create(path, trace.meta);
  if (!writer) return {};
  for (const OwnedRecord& record : trace.records) (*writer)->append(record.view());
  if (!(*writer)->close()) return {};
  return read_file(path);
}

}  // namespace vmwhy::test
