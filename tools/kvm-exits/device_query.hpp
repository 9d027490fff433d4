// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Asks one QEMU for its devices' addresses: "info mtree -f" and query-pci, which read tables and change
// nothing. Holds the monitor no longer than that. Everything runs on the io_context's thread.

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <optional>

#include "core/failure.hpp"
#include "qmp/client.hpp"
#include "tools/kvm-exits/devices.hpp"
#include "tools/kvm-exits/model.hpp"
#include "tools/kvm-exits/targets.hpp"

namespace vmwhy::kvm_exits {

class DeviceQuery {
 public:
  /// The devices, or why there are none. Called once, from the io_context, and never from within start().
  using Done = std::function<void(Result<DeviceMap>)>;

  /// Each step (connecting, the greeting, each answer) has a deadline of one second.
  DeviceQuery(boost::asio::io_context& io, const qmp::Address& address, Done done);
  void start() { client_->start(); }

 private:
  void on_state(qmp::LinkState state, const qmp::Failure* failure);
  void ask_pci();
  void finish(Result<DeviceMap> result);

  boost::asio::io_context& io_;
  Done done_;
  std::optional<DeviceMap> map_;
  std::unique_ptr<qmp::Client> client_;
};

/// The queries of a run: at its beginning, again while addresses have no name (firmware and guests place
/// devices later), and at its end. Puts what they bring into the VMs known.
class DeviceQueries {
 public:
  DeviceQueries(boost::asio::io_context& io, Targets& targets) : io_(io), targets_(targets) {}

  /// Asks every VM whose monitor is known and has no question open. @param now_ns  CLOCK_BOOTTIME.
  void ask(std::uint64_t now_ns);
  /// The same, where an address has no name and the last question is five seconds old.
  void ask_for_unnamed(const std::vector<Vm>& vms, std::uint64_t now_ns);
  /// Asks once more and runs the io_context, which has been stopped, for the answers: a second at most.
  void ask_at_end(std::uint64_t now_ns);
  /// Sentences on VMs that did not answer.
  std::vector<std::string> notes() const;

 private:
  boost::asio::io_context& io_;
  Targets& targets_;
  std::map<std::uint32_t, std::unique_ptr<DeviceQuery>> open_;
  std::map<std::uint32_t, std::string> failed_;
  std::uint64_t asked_ns_ = 0;
};

}  // namespace vmwhy::kvm_exits
