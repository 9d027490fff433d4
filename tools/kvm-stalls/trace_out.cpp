// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-stalls/trace_out.hpp"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include <algorithm>
#include <boost/json.hpp>

#include "cli/cli.hpp"
#include "clock/clock.hpp"
#include "host/pressure.hpp"
#include "host/sensors.hpp"

namespace vmwhy::kvm_stalls {
namespace {

boost::json::object probes_json(const Report& report) {
  boost::json::object probes;
  for (const bpf::StallsProbe& probe : report.probes)
    probes[probe.name] =
        boost::json::object{{"attached", probe.attached}, {"hits", probe.hits}, {"error", probe.error}};
  return {
      {"probes", boost::json::object{{"stalls", std::move(probes)}}},
      {"probe_losses",
       boost::json::object{{"stalls", boost::json::object{{"ring_full", report.losses.ring_full},
                                                          {"waiters_full", report.losses.waiters_full},
                                                          {"read_failed", report.losses.read_failed},
                                                          {"switch_missed", report.losses.switch_missed}}}}}};
}

/// A storage request that has not ended after this time hangs.
constexpr std::uint64_t kHangs = 1'000'000'000;

host::SensorReport sensor_of(const std::vector<bpf::StallsProbe>& probes) {
  host::SensorReport out{"sched", trace::SensorState::on, 0, "", ""};
  for (const bpf::StallsProbe& probe : probes) {
    // Without KVM there is nothing that KVM's tracepoints could tell.
    if (probe.attached || probe.name.starts_with("kvm_")) continue;
    out.state = trace::SensorState::partial;
    out.detail += (out.detail.empty() ? "not seen: " : ", ") + probe.name + " (" + probe.error + ")";
  }
  if (out.detail.empty()) out.detail = "where the time of QEMU's threads goes, and signals to them";
  return out;
}

}  // namespace

TraceOut::TraceOut(std::unique_ptr<trace::Writer> writer, bool syscall_probes)
    : recorder_(std::move(writer), {}),
      syscall_probes_(syscall_probes),
      mounts_(host::find_cgroup_mounts()) {}

Result<std::unique_ptr<TraceOut>> TraceOut::create(const Options& options) {
  utsname host{};
  ::uname(&host);
  boost::json::object meta{{"tool", "kvm-stalls"},
                           {"version", cli::version()},
                           {"args", options.args},
                           {"min_latency_ns", options.min_latency.count()},
                           {"host", boost::json::object{{"name", host.nodename},
                                                        {"kernel", host.release},
                                                        {"kernel_version", host.version},
                                                        {"machine", host.machine}}}};
  auto writer = trace::Writer::create(options.output, std::move(meta));
  if (!writer) return writer.error();
  return std::unique_ptr<TraceOut>(new TraceOut(std::move(*writer), options.syscall_probes));
}

void TraceOut::begin(const std::vector<bpf::StallsProbe>& probes, boost::asio::io_context& io) {
  const std::uint64_t now = clock::now_ns();
  recorder_.add(trace::make_record(now, 0, clock::take_snapshot(trace::ClockReason::start)));
  trace::Watch watch{};
  watch.event = static_cast<std::uint32_t>(trace::WatchEvent::begin);
  recorder_.add(trace::make_record(now, 0, watch, "kvm-stalls"));
  recorder_.add(host::sensor_record(now, sensor_of(probes)));
  storage::LedgerOptions wanted;
  wanted.syscall_probes = syscall_probes_;
  wanted.hang_ns = kHangs;
  storage::Ledger::Opened opened = storage::Ledger::open(wanted);
  recorder_.add(host::sensor_record(now, opened.sensor));
  ledger_ = std::move(opened.ledger);
  if (ledger_) ledger_->start(io, recorder_);
}

void TraceOut::add_vm(const qmp::QemuProcess& process) {
  Vm& vm = vm_by_pid_[process.pid];
  if (vm.number != 0 && !vm.ended) return;
  vm = {++vms_, false};
  const std::uint32_t number = vm.number;
  trace::VmSeen seen{};
  seen.pid = process.pid;
  seen.start_ns = process.start_ns;
  const std::uint64_t now = clock::now_ns();
  recorder_.add(trace::make_record(now, number, seen, boost::json::serialize(qmp::to_json(process))));
  cgroups_[process.pid] = host::CgroupWatch(process.pid, mounts_);
  recorder_.add(cgroups_[process.pid].record(now, number));
  if (ledger_) ledger_->watch(process.pid, number);
}

std::uint32_t TraceOut::vm_of(std::uint32_t pid) const {
  const auto vm = vm_by_pid_.find(pid);
  return vm == vm_by_pid_.end() ? 0 : vm->second.number;
}

void TraceOut::add(const Share& share) {
  trace::ThreadTime record{};
  record.window_ns = share.window_ns;
  record.times = stalls::from_array(share.times);
  record.others_ns = share.others_ns;
  record.pid = share.thread.pid;
  record.tid = share.thread.tid;
  record.role = static_cast<std::uint32_t>(share.thread.role);
  record.vcpu = share.thread.vcpu;
  std::vector<stalls::Culprit> most = share.culprits;
  if (most.size() > STALLS_CULPRITS) most.resize(STALLS_CULPRITS);
  recorder_.add(trace::make_record(clock::now_ns(), vm_of(share.thread.pid), record,
                                   trace::join_text({share.thread.comm, stalls::join(most)})));
}

void TraceOut::add(const stalls::Stall& stall) {
  recorder_.add(
      trace::make_record(stall.end_ns, vm_of(stall.record.pid), stall.record, stalls::stall_text(stall)));
}

void TraceOut::add(const Signal& signal) {
  recorder_.add(trace::make_record(signal.time_ns, vm_of(signal.record.pid), signal.record, signal.sender));
  recorder_.flush();
}

void TraceOut::add_end(std::uint32_t pid, std::optional<int> code, std::uint64_t time_ns,
                       const std::string& learned) {
  if (ledger_) {
    ledger_->drain();
    ledger_->unwatch(pid);
  }
  trace::VmEnd end{};
  end.pid = pid;
  if (code) {
    end.how =
        static_cast<std::uint32_t>(WIFSIGNALED(*code) ? trace::EndHow::signaled : trace::EndHow::exited);
    end.status = WIFSIGNALED(*code) ? WTERMSIG(*code) : WEXITSTATUS(*code);
    end.core_dumped = WIFSIGNALED(*code) && WCOREDUMP(*code);
  }
  recorder_.add(trace::make_record(time_ns, vm_of(pid), end, learned));
  recorder_.flush();
  vm_by_pid_[pid].ended = true;  // Its number stays known: the times of its threads are told afterwards.
  cgroups_.erase(pid);
}

void TraceOut::add(const trace::ClockSnapshot& snapshot) {
  recorder_.add(trace::make_record(snapshot.boottime_ns, 0, snapshot));
}

void TraceOut::tick() {
  if (ledger_) ledger_->look();
  const std::uint64_t now = clock::now_ns();
  recorder_.add(trace::make_record(now, 0, clock::take_snapshot(trace::ClockReason::tick)));
  for (const trace::OwnedRecord& record : thermal_.look(now)) recorder_.add(record);
  if (const auto pressure = host::host_pressure(now)) recorder_.add(*pressure);
  for (auto& [pid, cgroup] : cgroups_) {
    cgroup.refresh();
    recorder_.add(cgroup.record(now, vm_of(pid)));
  }
  recorder_.flush();
}

Result<trace::WriterStats> TraceOut::end(const Report& total) {
  if (ledger_) {
    ledger_->drain();
    ledger_->look();
  }
  const std::uint64_t now = clock::now_ns();
  if (total.losses.ring_full) {
    trace::Loss loss{};
    loss.lost = total.losses.ring_full;
    loss.first_ns = now - std::min(now, total.window_ns);
    loss.last_ns = now;
    recorder_.add(trace::make_record(now, 0, loss, "bpf: stalls"));
  }
  trace::Watch watch{};
  watch.event = static_cast<std::uint32_t>(trace::WatchEvent::end);
  recorder_.add(trace::make_record(now, 0, watch, "done"));
  recorder_.add(trace::make_record(now, 0, clock::take_snapshot(trace::ClockReason::end)));
  recorder_.writer()->add_meta(probes_json(total));
  return recorder_.writer()->close();
}

}  // namespace vmwhy::kvm_stalls
