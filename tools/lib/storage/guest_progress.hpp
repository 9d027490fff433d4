// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Whether the guest's storage requests get on, by what QEMU counts: query-blockstats tells when one ended
// last, and for virtio-blk the state of its queues how many have not ended. One thread.

#include <boost/json/value.hpp>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "storage/server_links.hpp"

namespace vmwhy::storage {

class GuestProgress {
 public:
  /// The reply to query-blockstats.
  void take(std::uint32_t vm, const boost::json::value& blockstats, std::uint64_t now_ns);
  void forget(std::uint32_t vm);
  /// A VM that is paused has requests that nothing carries on: those that failed wait for its resumption.
  void set_running(std::uint32_t vm, bool running);

  struct Queue {
    std::string path;  ///< QOM path of the virtio device.
    std::uint32_t number = 0;
  };
  /// The queues to ask x-query-virtio-queue-status about: those of devices over one of `nodes` for which no
  /// request has ended for a while. Only devices that QEMU serves itself: asked of one that another process
  /// serves (vhost-user), the question would stop its queue.
  std::vector<Queue> questions(std::uint32_t vm, const std::vector<std::string>& nodes) const;
  /// The answer; null: there is no such queue, or QEMU does not know the question.
  void take(std::uint32_t vm, const Queue& queue, const boost::json::value* status, std::uint64_t now_ns);

  /// @param nodes  As ServerLinks asks.
  GuestWaits waits(std::uint32_t vm, const std::vector<std::string>& nodes, std::uint64_t now_ns) const;

 private:
  struct Device {
    std::string node, path;
    std::uint64_t ended = 0;  ///< Requests, in all.
    std::uint64_t ended_ns = 0, seen_ns = 0;
    std::uint32_t queues = 0;
    std::map<std::uint32_t, std::pair<std::uint32_t, std::uint64_t>> in_use;  ///< By queue; when that was so.
  };
  std::set<std::uint32_t> paused_;
  std::map<std::pair<std::uint32_t, std::string>, Device> devices_;  ///< By VM and node.
};

}  // namespace vmwhy::storage
