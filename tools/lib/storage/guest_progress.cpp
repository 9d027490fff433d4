// SPDX-License-Identifier: BSD-2-Clause
#include "storage/guest_progress.hpp"

#include <algorithm>

namespace vmwhy::storage {
namespace {

namespace json = boost::json;

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::size_t kDevices = 16384;
/// Of a device with more queues the first ones are asked about.
constexpr std::uint32_t kQueues = 16;
/// An answer that is older tells nothing of now.
constexpr std::uint64_t kFresh = 3 * kSecond;
/// A device that has been quiet for so long may be one that hangs.
constexpr std::uint64_t kQuiet = kSecond / 2;

std::string text_of(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  const json::string* text = value != nullptr ? value->if_string() : nullptr;
  return text != nullptr ? std::string(text->data(), std::min<std::size_t>(text->size(), 1024))
                         : std::string();
}

std::uint64_t number_at(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_int64() && value->get_int64() >= 0
             ? static_cast<std::uint64_t>(value->get_int64())
             : 0;
}

/// Requests that went well or failed.
std::uint64_t ended_of(const json::object& stats) {
  std::uint64_t out = 0;
  for (const json::key_value_pair& member : stats)
    if (std::string_view(member.key()).ends_with("_operations")) out += number_at(stats, member.key_c_str());
  return out;
}

bool is_of(const std::vector<std::string>& nodes, const std::string& node) {
  return std::ranges::find(nodes, node) != nodes.end();
}

}  // namespace

void GuestProgress::take(std::uint32_t vm, const json::value& blockstats, std::uint64_t now_ns) {
  if (!blockstats.is_array()) return;
  for (const json::value& entry : blockstats.get_array()) {
    const json::object* object = entry.if_object();
    const json::value* stats = object != nullptr ? object->if_contains("stats") : nullptr;
    if (stats == nullptr || !stats->is_object()) continue;
    const std::string node = text_of(*object, "node-name");
    if (node.empty() || (devices_.size() >= kDevices && !devices_.contains({vm, node}))) continue;
    const auto [at, fresh] = devices_.try_emplace({vm, node});
    Device& device = at->second;
    const std::uint64_t ended = ended_of(stats->get_object());
    if (fresh || ended != device.ended || device.ended_ns == 0) device.ended_ns = now_ns;
    // QEMU knows it better than who looks now and then.
    const std::uint64_t idle = number_at(stats->get_object(), "idle_time_ns");
    if (idle != 0) device.ended_ns = now_ns - std::min(now_ns, idle);
    if (ended != device.ended || text_of(*object, "qdev") != device.path) device.in_use.clear();
    device.node = node;
    device.path = text_of(*object, "qdev");
    device.ended = ended;
    device.seen_ns = now_ns;
    if (fresh) device.queues = kQueues;
  }
}

void GuestProgress::set_running(std::uint32_t vm, bool running) {
  if (running)
    paused_.erase(vm);
  else
    paused_.insert(vm);
}

void GuestProgress::forget(std::uint32_t vm) {
  paused_.erase(vm);
  std::erase_if(devices_, [&](const auto& entry) { return entry.first.first == vm; });
}

std::vector<GuestProgress::Queue> GuestProgress::questions(std::uint32_t vm,
                                                           const std::vector<std::string>& nodes) const {
  std::vector<Queue> out;
  for (const auto& [key, device] : devices_) {
    if (key.first != vm || !is_of(nodes, device.node) || !device.path.ends_with("/virtio-backend")) continue;
    if (device.ended_ns + kQuiet > device.seen_ns) continue;
    for (std::uint32_t queue = 0; queue < device.queues; ++queue) out.push_back({device.path, queue});
  }
  return out;
}

void GuestProgress::take(std::uint32_t vm, const Queue& queue, const json::value* status,
                         std::uint64_t now_ns) {
  for (auto& [key, device] : devices_) {
    if (key.first != vm || device.path != queue.path) continue;
    const json::object* object = status != nullptr ? status->if_object() : nullptr;
    if (object == nullptr || !object->contains("inuse")) {
      device.queues = std::min(device.queues, queue.number);
      device.in_use.erase(queue.number);
    } else if (queue.number < kQueues) {
      device.in_use[queue.number] = {static_cast<std::uint32_t>(number_at(*object, "inuse")), now_ns};
    }
  }
}

GuestWaits GuestProgress::waits(std::uint32_t vm, const std::vector<std::string>& nodes,
                                std::uint64_t now_ns) const {
  GuestWaits out;
  for (const auto& [key, device] : devices_) {
    if (key.first != vm || !is_of(nodes, device.node) || device.seen_ns + kFresh < now_ns) continue;
    const std::uint64_t quiet = now_ns - std::min(now_ns, device.ended_ns);
    out.quiet_ns = std::min(out.quiet_ns.value_or(UINT64_MAX), quiet);
    if (paused_.contains(vm)) continue;
    for (const auto& [number, in_use] : device.in_use)
      if (in_use.second + kFresh >= now_ns) out.in_flight = out.in_flight.value_or(0) + in_use.first;
  }
  return out;
}

}  // namespace vmwhy::storage
