// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/listener.hpp"

#include <algorithm>

#include "clock/clock.hpp"
#include "tap/mask.hpp"
#include "tap/tap_records.hpp"
#include "trace/tap_records.hpp"

namespace vmwhy::qmp_pausewatch {
namespace {

using Kind = qmp::proto::Overheard::Kind;

/// What keeps the main loop for as long as it lasts: all commands but those that QEMU runs beside it.
bool holds_main_loop(const std::string& command) {
  return command != "screendump" && command != "block_resize";
}

}  // namespace

host::SensorReport Listener::switched_off() {
  return {"tap", trace::SensorState::off, 0, "switched off by --no-bpf: who sends a command is not heard",
          ""};
}

Listener::Opened Listener::open() {
  auto tap = tap::Tap::open({});
  if (!tap) {
    const Failure& why = tap.error();
    return {nullptr,
            {"tap", trace::SensorState::off, why.code.value(),
             "monitors that others hold are not heard: " + why.context, why.remedy}};
  }
  const std::string form = (*tap)->form();
  return {std::unique_ptr<Listener>(new Listener(std::move(*tap))),
          {"tap", trace::SensorState::on, 0, "monitors that others hold are heard (" + form + ")", ""}};
}

Result<void> Listener::start(boost::asio::io_context& io, record::Recorder& recorder,
                             std::uint64_t overdue_ns) {
  recorder_ = &recorder;
  overdue_ns_ = overdue_ns;
  tap::Handlers handlers;
  handlers.on_message = [this](const tap::Wire& wire, const qmp::proto::Overheard& message) {
    heard(wire, message);
  };
  handlers.on_change = [this](const tap::Wire& wire, tap::Change change, std::uint64_t time_ns,
                              std::uint64_t waited_ns) { changed(wire, change, time_ns, waited_ns); };
  return tap_->start(io, std::move(handlers));
}

Result<void> Listener::watch(const qmp::QemuProcess& process, std::uint32_t vm, Handlers handlers) {
  vms_[process.pid] = {vm, std::move(handlers), false};
  auto done = tap_->watch(process);
  if (!done) vms_.erase(process.pid);
  return done;
}

void Listener::unwatch(std::uint32_t pid) {
  if (!vms_.contains(pid)) return;
  tap_->unwatch(pid);
  vms_.erase(pid);
}

void Listener::leave_out_unknown(std::uint32_t pid) {
  if (const auto found = vms_.find(pid); found != vms_.end()) found->second.leave_out_unknown = true;
}

const Listener::Vm* Listener::vm_of(const tap::Wire& wire) const {
  const auto found = vms_.find(wire.pid);
  if (found == vms_.end() || (wire.peer.pid == 0 && found->second.leave_out_unknown)) return nullptr;
  return &found->second;
}

void Listener::heard(const tap::Wire& wire, const qmp::proto::Overheard& message) {
  const Vm* vm = vm_of(wire);
  if (vm == nullptr) return;
  const std::uint32_t link = trace::kFirstHeardLink + wire.link;
  recorder_->add(tap::message_record(vm->id, link, message, tap::masked_json(message)));
  const bool answer = message.kind == Kind::reply || message.kind == Kind::error;
  if (answer && message.sent_ns != 0 && overdue_.erase({wire.ino, message.sent_ns}) != 0)
    record_link(vm->id, link, wire.monitor, trace::QmpLinkState::reply_late,
                message.time_ns - message.sent_ns, message.command);
  tell(*vm, message);
}

void Listener::tell(const Vm& vm, const qmp::proto::Overheard& message) {
  const bool reply = message.kind == Kind::reply;
  if ((reply || message.kind == Kind::error) && message.sent_ns != 0 && holds_main_loop(message.command))
    vm.handlers.on_round_trip(message.time_ns - message.sent_ns);
  if (message.kind == Kind::event) {
    qmp::Event event;
    event.name = message.event;
    if (message.body.is_object()) event.data = message.body.get_object();
    event.wall_us = message.wall_us;
    event.arrival_ns = message.time_ns;
    vm.handlers.on_event(event);
  } else if (reply && message.command == "query-status" && message.body.is_object()) {
    const auto* status = message.body.get_object().if_contains("status");
    if (status && status->is_string()) vm.handlers.on_run_state(std::string(status->get_string()));
  } else if (reply && message.command == "query-named-block-nodes") {
    vm.handlers.on_nodes(message.body);
  }
}

void Listener::changed(const tap::Wire& wire, tap::Change change, std::uint64_t time_ns,
                       std::uint64_t waited_ns) {
  if (const Vm* vm = vm_of(wire))
    recorder_->add(
        tap::peer_record(vm->id, trace::kFirstHeardLink + wire.link, wire, change, time_ns, waited_ns));
}

void Listener::record_link(std::uint32_t vm, std::uint32_t link, const std::string& monitor,
                           trace::QmpLinkState state, std::uint64_t waited_ns, const std::string& command) {
  trace::QmpLink out{};
  out.waited_ns = waited_ns;
  out.state = static_cast<std::uint32_t>(state);
  out.link = link;
  recorder_->add(trace::make_record(clock::now_ns(), vm, out, trace::join_text({monitor, command})));
}

void Listener::every_second() {
  const std::uint64_t now = clock::now_ns();
  tap_->every_second();
  record_lost(now);
  record_overdue(now);
}

void Listener::record_lost(std::uint64_t now) {
  if (const std::uint64_t lost = tap_->losses().lost(); lost != lost_) {
    trace::Loss loss{};
    loss.lost = lost - std::exchange(lost_, lost);
    loss.first_ns = looked_ns_ != 0 ? looked_ns_ : now;
    loss.last_ns = now;
    recorder_->add(trace::make_record(now, 0, loss, "tap"));
  }
  looked_ns_ = now;
}

void Listener::record_overdue(std::uint64_t now) {
  decltype(overdue_) still;
  for (const tap::Pending& pending : tap_->pending()) {
    const tap::Wire& wire = *pending.wire;
    const Vm* vm = vm_of(wire);
    if (vm == nullptr || !holds_main_loop(pending.command) || vm->handlers.has_own_monitor()) continue;
    if (pending.received_ns + overdue_ns_ > now) continue;
    const std::pair key{wire.ino, pending.received_ns};
    const std::uint32_t link = trace::kFirstHeardLink + wire.link;
    still[key] = {wire.pid, link, wire.monitor, pending.command};
    if (!overdue_.contains(key))
      record_link(vm->id, link, wire.monitor, trace::QmpLinkState::reply_overdue, now - pending.received_ns,
                  pending.command);
  }
  // The client went away before its reply came, or the reply was missed.
  for (const auto& [key, gone] : overdue_) {
    const auto vm = vms_.find(gone.pid);
    if (still.contains(key) || vm == vms_.end()) continue;
    record_link(vm->second.id, gone.link, gone.monitor, trace::QmpLinkState::closed, now - key.second,
                gone.command);
  }
  overdue_ = std::move(still);
}

std::uint64_t Listener::waiting_since_ns(std::uint32_t pid) const {
  std::uint64_t oldest = 0;
  for (const tap::Pending& pending : tap_->pending()) {
    if (pending.wire->pid != pid || vm_of(*pending.wire) == nullptr || !holds_main_loop(pending.command))
      continue;
    if (oldest == 0 || pending.received_ns < oldest) oldest = pending.received_ns;
  }
  return oldest;
}

bool Listener::hears(std::uint32_t pid) const {
  const auto wires = tap_->wires();
  return std::any_of(wires.begin(), wires.end(), [&](const tap::Wire* wire) { return wire->pid == pid; });
}

}  // namespace vmwhy::qmp_pausewatch
