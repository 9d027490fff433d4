// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-tap/trace_out.hpp"

#include <sys/utsname.h>

#include <boost/json/serialize.hpp>

#include "cli/cli.hpp"
#include "clock/clock.hpp"
#include "host/sensors.hpp"
#include "tap/tap_records.hpp"
#include "trace/tap_records.hpp"

namespace vmwhy::qmp_tap {
namespace {

trace::OwnedRecord watch_record(std::uint32_t vm, trace::WatchEvent event, std::string reason) {
  trace::Watch watch{};
  watch.event = static_cast<std::uint32_t>(event);
  return trace::make_record(clock::now_ns(), vm, watch, std::move(reason));
}

}  // namespace

TraceOut::TraceOut(std::unique_ptr<trace::Writer> writer, std::string form)
    : recorder_(std::move(writer), {}), form_(std::move(form)) {}

Result<std::unique_ptr<TraceOut>> TraceOut::create(const Options& options, const std::string& form) {
  utsname host{};
  ::uname(&host);
  boost::json::object meta{{"tool", "qmp-tap"},
                           {"version", cli::version()},
                           {"args", options.args},
                           {"host", boost::json::object{{"name", host.nodename},
                                                        {"kernel", host.release},
                                                        {"kernel_version", host.version},
                                                        {"machine", host.machine}}}};
  auto writer = trace::Writer::create(options.output, std::move(meta));
  if (!writer) return writer.error();
  return std::unique_ptr<TraceOut>(new TraceOut(std::move(*writer), form));
}

void TraceOut::begin() {
  recorder_.add(trace::make_record(clock::now_ns(), 0, clock::take_snapshot(trace::ClockReason::start)));
  recorder_.add(watch_record(0, trace::WatchEvent::begin, "qmp-tap"));
  recorder_.add(host::sensor_record(
      clock::now_ns(),
      {"tap", trace::SensorState::on, 0, "monitors that others hold are heard (" + form_ + ")", ""}));
}

void TraceOut::add_vm(const qmp::QemuProcess& process) {
  const auto [at, fresh] = vm_by_pid_.try_emplace(process.pid, last_vm_ + 1);
  if (fresh) ++last_vm_;
  trace::VmSeen seen{};
  seen.pid = process.pid;
  seen.start_ns = process.start_ns;
  recorder_.add(
      trace::make_record(clock::now_ns(), at->second, seen, boost::json::serialize(qmp::to_json(process))));
  if (fresh) recorder_.add(watch_record(at->second, trace::WatchEvent::begin, process.name));
}

void TraceOut::end_vm(std::uint32_t pid, const std::string& reason) {
  const auto found = vm_by_pid_.find(pid);
  if (found == vm_by_pid_.end()) return;
  recorder_.add(watch_record(found->second, trace::WatchEvent::end, reason));
  vm_by_pid_.erase(found);
}

void TraceOut::add(const tap::Wire& wire, const qmp::proto::Overheard& message, const std::string& json) {
  const auto found = vm_by_pid_.find(wire.pid);
  if (found != vm_by_pid_.end())
    recorder_.add(tap::message_record(found->second, trace::kFirstHeardLink + wire.link, message, json));
}

void TraceOut::add(const tap::Wire& wire, tap::Change change, std::uint64_t time_ns,
                   std::uint64_t waited_ns) {
  const auto found = vm_by_pid_.find(wire.pid);
  if (found != vm_by_pid_.end())
    recorder_.add(tap::peer_record(found->second, trace::kFirstHeardLink + wire.link, wire, change, time_ns,
                                   waited_ns));
}

void TraceOut::add_lost(std::uint64_t lost, std::uint64_t since_ns) {
  trace::Loss loss{};
  loss.lost = lost;
  loss.first_ns = since_ns;
  loss.last_ns = clock::now_ns();
  recorder_.add(trace::make_record(loss.last_ns, 0, loss, "tap"));
}

void TraceOut::tick() {
  recorder_.add(trace::make_record(clock::now_ns(), 0, clock::take_snapshot(trace::ClockReason::tick)));
  recorder_.flush();
}

Result<trace::WriterStats> TraceOut::end(const bpf::QmpTapLosses& losses) {
  for (const auto& [pid, vm] : vm_by_pid_)
    recorder_.add(watch_record(vm, trace::WatchEvent::end, "the run ended"));
  recorder_.add(watch_record(0, trace::WatchEvent::end, "done"));
  recorder_.add(trace::make_record(clock::now_ns(), 0, clock::take_snapshot(trace::ClockReason::end)));
  boost::json::object counters;
  for (unsigned stat = 0; stat < QMP_TAP_STATS; ++stat)
    counters[bpf::QmpTapLosses::name(stat)] = losses.counters[stat];
  counters["missed"] = losses.missed;
  recorder_.writer()->add_meta(
      {{"probe_losses", boost::json::object{{"qmp_tap", std::move(counters)}}},
       {"probes", boost::json::object{{"qmp_tap", boost::json::object{{"form", form_}}}}}});
  return recorder_.writer()->close();
}

}  // namespace vmwhy::qmp_tap
