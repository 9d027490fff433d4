// SPDX-License-Identifier: BSD-2-Clause
#include "timeline/host_track.hpp"

#include <algorithm>
#include <boost/json/array.hpp>
#include <cstring>

#include "core/text.hpp"
#include "timeline/json_read.hpp"

namespace vmwhy::timeline {
namespace {

namespace json = boost::json;

std::string field(const trace::RecordView& record, std::size_t n, std::size_t limit = 4096) {
  return std::string(trace::text_field(record.text, n).substr(0, limit));
}

template <class Array>
std::string padded(const Array& bytes) {
  return std::string(bytes, strnlen(bytes, sizeof(bytes)));
}

}  // namespace

void add_vm_seen(VmTracks& vm, const trace::RecordView& record) {
  const auto seen = record.as<trace::VmSeen>();
  vm.pid = seen.pid;
  vm.start_ns = seen.start_ns;
  const json::value parsed = parse_json(record.text);
  const json::object* object = parsed.if_object();
  if (object == nullptr) return;
  vm.name = text_of(*object, "name", 256);
  vm.uuid = text_of(*object, "uuid", 64);
  vm.accelerator = text_of(*object, "accelerator", 32);
  vm.owner = text_of(*object, "owner", 32);
  vm.log_file = text_of(*object, "log_file", 4096);
  const std::int64_t uid = int_of(*object, "uid", -1);
  if (uid >= 0 && uid <= UINT32_MAX) vm.uid = static_cast<std::uint32_t>(uid);
  vm.monitors.clear();
  if (const json::array* monitors = array_of(*object, "monitors")) {
    for (const json::value& entry : *monitors) {
      const json::object* monitor = entry.if_object();
      if (monitor == nullptr || vm.monitors.size() >= kMaxLinks) continue;
      vm.monitors.push_back({text_of(*monitor, "address", 512), bool_of(*monitor, "held"),
                             static_cast<std::uint32_t>(int_of(*monitor, "held_by_pid")),
                             text_of(*monitor, "held_by_comm", 64)});
    }
  }
  vm.disks.clear();
  if (const json::array* disks = array_of(*object, "disks")) {
    for (const json::value& entry : *disks) {
      const json::object* disk = entry.if_object();
      if (disk == nullptr || vm.disks.size() >= 1024) continue;
      vm.disks.insert_or_assign(text_of(*disk, "node", 128), text_of(*disk, "path", 4096));
    }
  }
}

void add_vm_end(VmTracks& vm, const trace::RecordView& record) {
  const auto end = record.as<trace::VmEnd>();
  vm.ended = End{record.header.time_ns, static_cast<trace::EndHow>(end.how), end.status, end.core_dumped != 0,
                 field(record, 0, 256)};
}

const Process& add_process(VmTracks& vm, const trace::RecordView& record) {
  Process process;
  process.time_ns = record.header.time_ns;
  process.state = record.as<trace::ProcessState>();
  process.comm = field(record, 0, 64);
  process.tracer = padded(process.state.tracer_comm);
  return vm.processes.add(std::move(process));
}

const Thread& add_thread(VmTracks& vm, const trace::RecordView& record) {
  Thread thread;
  thread.time_ns = record.header.time_ns;
  thread.state = record.as<trace::ThreadState>();
  thread.comm = field(record, 0, 64);
  thread.wchan = field(record, 1, 64);
  thread.stack = field(record, 2, 4096);
  thread.file = field(record, 3);
  return vm.threads.add(std::move(thread));
}

namespace {

constexpr std::size_t kMostDevices = 256;

// "dm-0=254:0 sda=8:0/iscsi/session1 nbd0=43:0/nbd"
std::vector<BlockDevice> parse_devices(std::string_view text) {
  std::vector<BlockDevice> out;
  for (const std::string_view word : split(text, ' ')) {
    const std::size_t equals = word.find('=');
    if (equals == 0 || equals == std::string_view::npos || out.size() >= kMostDevices) continue;
    const auto parts = split(word.substr(equals + 1), '/');
    const auto part = [&](std::size_t n) { return std::string(n < parts.size() ? parts[n] : ""); };
    out.push_back({std::string(word.substr(0, equals)), part(0), part(1), part(2)});
  }
  return out;
}

}  // namespace

void add_node_file(VmTracks& vm, const trace::RecordView& record) {
  NodeFile file;
  file.time_ns = record.header.time_ns;
  file.file = record.as<trace::NodeFile>();
  file.node = field(record, 0, 128);
  file.path = field(record, 1);
  file.mount = field(record, 2);
  file.fs_type = field(record, 3, 64);
  file.source = field(record, 4);
  file.devices = parse_devices(field(record, 5));
  file.quotas = field(record, 6);
  vm.files.add(std::move(file));
}

const Cgroup& add_cgroup(VmTracks& vm, const trace::RecordView& record) {
  return vm.cgroups.add({record.header.time_ns, record.as<trace::CgroupState>(), field(record, 0),
                         field(record, 1), field(record, 2)});
}

void add_log_tail(VmTracks& vm, const trace::RecordView& record) {
  constexpr std::size_t kLimit = 64u << 10;
  Log log;
  log.time_ns = record.header.time_ns;
  log.path = field(record, 0);
  std::string_view text = trace::text_field(record.text, 1);
  if (text.size() > kLimit) text.remove_prefix(text.size() - kLimit);
  log.text = text;
  vm.logs.add(std::move(log));
}

const KvmFailure& add_kvm_failure(VmTracks& vm, const trace::RecordView& record) {
  return vm.kvm_failures.add({record.header.time_ns, record.as<trace::KvmFailure>(), field(record, 0, 512)});
}

const KvmExits& add_kvm_exits(VmTracks& vm, const trace::RecordView& record) {
  std::string reason = field(record, 0, 64);
  // An address says more with the device that answers there.
  if (const std::string device = field(record, 2, 160); !device.empty()) reason += " (" + device + ")";
  return vm.kvm_exits.add({record.header.time_ns, record.as<trace::KvmExitSummary>(), std::move(reason)});
}

const ThreadStall& add_thread_stall(VmTracks& vm, const trace::RecordView& record) {
  return vm.thread_stalls.add(
      {record.header.time_ns, record.as<trace::ThreadStall>(), std::string(record.text.substr(0, 4096))});
}

void add_process_signal(VmTracks& vm, const trace::RecordView& record) {
  vm.signals.add({record.header.time_ns, record.as<trace::ProcessSignal>(), field(record, 0, 64)});
}

void add_pressure(Bounded<Pressure>& list, const trace::RecordView& record) {
  list.add({record.header.time_ns, record.as<trace::Pressure>(), field(record, 0)});
}

const IoRequest& add_request(VmTracks& vm, const trace::RecordView& record) {
  return vm.requests.add(
      {record.header.time_ns, record.as<trace::IoSyscall>(), field(record, 0), field(record, 1, 32)});
}

void add_block_failure(HostTracks& host, const trace::RecordView& record) {
  host.block_failures.add(
      {record.header.time_ns, record.as<trace::IoBlock>(), field(record, 0, 64), field(record, 1, 64)});
}

const IoStats& add_io_stats(Bounded<IoStats>& list, const trace::RecordView& record) {
  return list.add({record.header.time_ns, record.as<trace::IoStats>(), field(record, 0, 128),
                   field(record, 1, 64), field(record, 2)});
}

void add_kernel_line(HostTracks& host, const trace::RecordView& record) {
  host.kernel.add({record.header.time_ns, record.as<trace::KernelLog>().priority,
                   std::string(record.text.substr(0, 512))});
}

void add_sensor(SensorMap& sensors, const trace::RecordView& record) {
  const auto sensor = record.as<trace::Sensor>();
  SensorState state;
  state.time_ns = record.header.time_ns;
  state.state = static_cast<trace::SensorState>(sensor.state);
  state.error = sensor.error;
  state.name = field(record, 0, 32);
  state.detail = field(record, 1, kLongestDetail);
  state.remedy = field(record, 2, 512);
  if (sensors.size() < 64 || sensors.count(state.name) > 0) sensors.insert_or_assign(state.name, state);
}

void add_loss(HostTracks& host, const trace::RecordView& record) {
  const auto loss = record.as<trace::Loss>();
  host.lost_records += loss.lost;
  host.lost.add({loss.first_ns != 0 ? loss.first_ns : record.header.time_ns,
                 loss.last_ns != 0 ? loss.last_ns : record.header.time_ns, loss.lost, field(record, 0, 64)});
}

}  // namespace vmwhy::timeline
