// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-exits/device_query.hpp"

#include <fmt/format.h>

#include <boost/asio/post.hpp>
#include <boost/json.hpp>
#include <chrono>

namespace vmwhy::kvm_exits {

DeviceQuery::DeviceQuery(boost::asio::io_context& io, const qmp::Address& address, Done done)
    : io_(io), done_(std::move(done)) {
  qmp::ClientOptions options;
  options.address = address;
  options.connect_deadline = options.greeting_deadline = options.command_deadline = std::chrono::seconds(1);
  qmp::Handlers handlers;
  handlers.on_state = [this](qmp::LinkState state, const qmp::Failure* failure) { on_state(state, failure); };
  client_ = std::make_unique<qmp::Client>(io, std::move(options), std::move(handlers));
}

void DeviceQuery::on_state(qmp::LinkState state, const qmp::Failure* failure) {
  // Held monitors and such are told without the state `down`: one failure is enough.
  if (failure) return finish(Failure{{}, qmp::to_string(*failure), ""});
  if (state == qmp::LinkState::down) return finish(Failure{{}, "the monitor closed", ""});
  if (state != qmp::LinkState::ready) return;
  client_->execute("human-monitor-command", {{"command-line", "info mtree -f"}},
                   [this](const qmp::Result<qmp::Reply>& reply) {
                     if (!reply) return finish(Failure{{}, qmp::to_string(reply.error()), ""});
                     map_ =
                         reply->value.is_string() ? DeviceMap::parse(reply->value.get_string()) : DeviceMap();
                     ask_pci();
                   });
}

void DeviceQuery::ask_pci() {
  client_->execute("query-pci", {}, [this](const qmp::Result<qmp::Reply>& reply) {
    // A machine without PCI answers with an error; its devices are known all the same.
    if (reply) map_->add_pci(reply->value);
    finish(std::move(*map_));
  });
}

void DeviceQuery::finish(Result<DeviceMap> result) {
  if (!done_) return;
  // The client must not be closed, or deleted with us, from within its own handler.
  boost::asio::post(io_, [done = std::exchange(done_, nullptr), result = std::move(result)]() mutable {
    done(std::move(result));
  });
}

void DeviceQueries::ask(std::uint64_t now_ns) {
  asked_ns_ = now_ns;
  for (const auto& [pid, address] : targets_.monitors) {
    if (open_.count(pid) != 0) continue;
    const std::uint32_t key = pid;
    auto query = std::make_unique<DeviceQuery>(io_, address, [this, key](Result<DeviceMap> answer) {
      if (answer)
        targets_.known[key].devices = std::make_shared<const DeviceMap>(std::move(*answer));
      else
        failed_[key] = to_string(answer.error());
      open_.erase(key);
    });
    query->start();
    open_.emplace(pid, std::move(query));
  }
}

void DeviceQueries::ask_for_unnamed(const std::vector<Vm>& vms, std::uint64_t now_ns) {
  if (now_ns - asked_ns_ < 5'000'000'000) return;
  for (const Vm& vm : vms)
    for (const Vcpu& vcpu : vm.vcpus)
      for (const Exit& exit : vcpu.exits)
        if ((exit.kind == KVM_EXITS_KIND_PIO || exit.kind == KVM_EXITS_KIND_MMIO) && !exit.from_qemu)
          return ask(now_ns);
}

void DeviceQueries::ask_at_end(std::uint64_t now_ns) {
  ask(now_ns);
  io_.restart();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  while (!open_.empty() && std::chrono::steady_clock::now() < deadline)
    if (io_.run_one_until(deadline) == 0) break;
}

std::vector<std::string> DeviceQueries::notes() const {
  std::vector<std::string> out;
  for (const auto& [pid, why] : failed_) {
    const auto known = targets_.known.find(pid);
    if (known == targets_.known.end() || !known->second.devices)
      out.push_back(
          fmt::format("names of the devices of process {} are guesses: QEMU did not tell: {}", pid, why));
  }
  return out;
}

}  // namespace vmwhy::kvm_exits
