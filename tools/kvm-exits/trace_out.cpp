// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-exits/trace_out.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/utsname.h>

#include <boost/json.hpp>

#include "cli/cli.hpp"
#include "clock/clock.hpp"
#include "qmp/discovery.hpp"

namespace vmwhy::kvm_exits {
namespace {

boost::json::object probes_json(const Report& report) {
  boost::json::object probes, losses;
  for (const bpf::ProbeStatus& probe : report.probes)
    probes[probe.name] = boost::json::object{
        {"form", probe.form}, {"attached", probe.attached}, {"hits", probe.hits}, {"error", probe.error}};
  for (unsigned stat = 0; stat < KVM_EXITS_STATS; ++stat)
    losses[bpf::KvmExitsLosses::name(stat)] = report.losses.counters[stat];
  return {{"probes", boost::json::object{{"kvm_exits", std::move(probes)}}},
          {"probe_losses", boost::json::object{{"kvm_exits", std::move(losses)}}}};
}

}  // namespace

std::string failure_sentence(const kvm_exits_event& event, kvm::Isa isa) {
  const bool internal = event.user_code == kvm::kExitInternalError;
  std::string out = internal ? "KVM internal error" : "KVM could not enter the guest";
  if (event.address == KVM_EXITS_NO_ADDRESS)
    out += ": details could not be read";
  else if (internal)
    out += ": " + kvm::internal_error_name(event.address);
  else
    out += ": hardware reason " + kvm::exit_reason_name(isa, static_cast<std::uint32_t>(event.address));
  return out + "; last exit: " + kvm::exit_reason_name(isa, event.code);
}

TraceOut::TraceOut(std::unique_ptr<trace::Writer> writer, kvm::Isa isa)
    : recorder_(std::move(writer), {}), isa_(isa) {}

Result<std::unique_ptr<TraceOut>> TraceOut::create(const Options& options,
                                                   const bpf::Environment& environment) {
  utsname host{};
  ::uname(&host);
  const auto isa = kvm::isa_from(static_cast<std::uint32_t>(environment.isa));
  const std::string_view isa_name = kvm::to_string(isa);
  boost::json::object meta{
      {"tool", "kvm-exits"},
      {"version", cli::version()},
      {"args", options.args},
      {"host", boost::json::object{{"name", host.nodename},
                                   {"kernel", host.release},
                                   {"kernel_version", host.version},
                                   {"machine", host.machine},
                                   {"kvm", boost::json::string_view(isa_name.data(), isa_name.size())}}}};
  auto writer = trace::Writer::create(options.output, std::move(meta));
  if (!writer) return writer.error();
  return std::unique_ptr<TraceOut>(new TraceOut(std::move(*writer), isa));
}

void TraceOut::begin() {
  recorder_.add(trace::make_record(clock::now_ns(), 0, clock::take_snapshot(trace::ClockReason::start)));
  trace::Watch watch{};
  watch.event = static_cast<std::uint32_t>(trace::WatchEvent::begin);
  recorder_.add(trace::make_record(clock::now_ns(), 0, watch, "kvm-exits"));
}

void TraceOut::tick() {
  recorder_.add(trace::make_record(clock::now_ns(), 0, clock::take_snapshot(trace::ClockReason::tick)));
  recorder_.flush();
}

std::uint32_t TraceOut::vm_of(std::uint32_t pid) {
  const auto [at, fresh] = vm_by_pid_.try_emplace(pid, static_cast<std::uint32_t>(vm_by_pid_.size() + 1));
  if (fresh) {
    const auto process = qmp::inspect_qemu(pid);
    trace::VmSeen seen{};
    seen.pid = pid;
    seen.start_ns = process ? process->start_ns : 0;
    recorder_.add(trace::make_record(clock::now_ns(), at->second, seen,
                                     process ? boost::json::serialize(qmp::to_json(*process)) : "{}"));
  }
  return at->second;
}

void TraceOut::add(const kvm_exits_batch& batch) {
  const std::uint32_t vm = vm_of(batch.tgid);
  for (std::uint32_t i = 0; i < batch.count && i < KVM_EXITS_BATCH; ++i) {
    const kvm_exits_event& event = batch.events[i];
    if (batch.message == KVM_EXITS_MESSAGE_FAILURE) {
      trace::KvmFailure failure{};
      failure.detail = event.address;
      failure.last_code = event.code;
      failure.user_code = event.user_code;
      failure.tid = batch.tid;
      failure.vcpu = batch.vcpu_id;
      failure.isa = static_cast<std::uint32_t>(isa_);
      recorder_.add(trace::make_record(event.time_ns, vm, failure, failure_sentence(event, isa_)));
      recorder_.flush();
      continue;
    }
    trace::KvmExit exit{};
    exit.duration_ns = event.duration_ns;
    exit.qemu_ns = event.qemu_ns;
    exit.address = event.address;
    exit.code = event.code;
    exit.user_code = event.user_code;
    exit.tid = batch.tid;
    exit.vcpu = batch.vcpu_id;
    exit.isa = static_cast<std::uint32_t>(isa_);
    const trace::RecordHeader header{event.time_ns, static_cast<std::uint16_t>(trace::RecordType::kvm_exit),
                                     static_cast<std::uint16_t>(sizeof(trace::RecordHeader) + sizeof(exit)),
                                     vm};
    // Not make_record(): a million of them a second must not allocate.
    recorder_.add(trace::RecordView{header, {reinterpret_cast<const char*>(&exit), sizeof(exit)}, {}});
  }
}

void TraceOut::add(const Report& report) {
  const std::uint64_t now = clock::now_ns();
  for (const Vm& vm : report.vms) {
    const std::uint32_t number = vm_of(vm.pid);
    for (const Vcpu& vcpu : vm.vcpus) {
      for (const Exit& exit : vcpu.exits) {
        trace::KvmExitSummary sum{};
        sum.window_ns = report.window_ns;
        sum.code = exit.code;
        sum.count = exit.count;
        sum.timed = exit.timed;
        sum.total_ns = exit.total_ns;
        sum.max_ns = exit.max_ns;
        sum.qemu_ns = exit.qemu_ns;
        sum.kind = static_cast<std::uint32_t>(exit.kind);
        sum.write = exit.write;
        sum.tid = vcpu.tid;
        sum.vcpu = vcpu.id;
        sum.isa = static_cast<std::uint32_t>(isa_);
        sum.halt = exit.halt;
        recorder_.add(trace::make_record(
            now, number, sum,
            trace::join_text({exit.reason, fmt::format("{}", fmt::join(exit.log2_ns, " ")), exit.device})));
      }
    }
  }
}

Result<trace::WriterStats> TraceOut::end(const Report& total, std::uint64_t lost) {
  const std::uint64_t now = clock::now_ns();
  if (lost) {
    trace::Loss loss{};
    loss.lost = lost;
    loss.first_ns = now - total.window_ns;
    loss.last_ns = now;
    recorder_.add(trace::make_record(now, 0, loss, "bpf"));
  }
  trace::Watch watch{};
  watch.event = static_cast<std::uint32_t>(trace::WatchEvent::end);
  recorder_.add(trace::make_record(now, 0, watch, "done"));
  recorder_.add(trace::make_record(now, 0, clock::take_snapshot(trace::ClockReason::end)));
  recorder_.writer()->add_meta(probes_json(total));
  return recorder_.writer()->close();
}

}  // namespace vmwhy::kvm_exits
