// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-exits/devices.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <optional>

#include "core/text.hpp"

namespace vmwhy::kvm_exits {
namespace {

namespace json = boost::json;

constexpr std::size_t kLongestName = 64;
constexpr int kDeepestBridge = 8;

std::optional<std::uint64_t> take_hex(std::string_view& text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

bool take(std::string_view& text, std::string_view word) {
  if (!text.starts_with(word)) return false;
  text.remove_prefix(word.size());
  return true;
}

struct Line {
  std::uint64_t first = 0, last = 0;
  std::string_view kind, name;
};

// "  00000000000003f8-00000000000003ff (prio 0, i/o): serial", perhaps with " @OFFSET" or flags behind.
std::optional<Line> parse_line(std::string_view text) {
  Line line;
  text = trim(text);
  const auto first = take_hex(text);
  if (!first || !take(text, "-")) return std::nullopt;
  const auto last = take_hex(text);
  if (!last || !take(text, " (prio ")) return std::nullopt;
  const std::size_t comma = text.find(", "), end = text.find("): ");
  if (comma == std::string_view::npos || end == std::string_view::npos || end < comma) return std::nullopt;
  line.first = *first;
  line.last = *last;
  line.kind = text.substr(comma + 2, end - comma - 2);
  line.name = text.substr(end + 3);
  if (const std::size_t at = line.name.find(" @"); at != std::string_view::npos)
    line.name = line.name.substr(0, at);
  return line;
}

std::uint64_t number(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(json::string_view(key.data(), key.size()));
  if (value && value->is_int64() && value->get_int64() >= 0)
    return static_cast<std::uint64_t>(value->get_int64());
  return value && value->is_uint64() ? value->get_uint64() : 0;
}

std::string word(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(json::string_view(key.data(), key.size()));
  return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

}  // namespace

DeviceMap DeviceMap::parse(std::string_view mtree) {
  DeviceMap map;
  bool ports = false, memory = false;
  for (std::string_view text : split(mtree, '\n')) {
    std::string_view rest = trim(text);
    if (rest.starts_with("FlatView #")) {
      ports = memory = false;
    } else if (take(rest, "AS \"")) {
      ports = ports || rest.starts_with("I/O\"");
      memory = memory || rest.starts_with("memory\"");
    } else if (ports || memory) {
      const auto line = parse_line(rest);
      // The container of all ports stands where no device is.
      if (!line || line->kind == "ram" || line->kind == "rom" || (ports && line->name == "io")) continue;
      if (map.ranges_.size() == kMost) break;
      map.ranges_.push_back(
          {ports, line->first, line->last, std::string(line->name.substr(0, kLongestName))});
    }
  }
  return map;
}

void DeviceMap::add_pci(const json::value& query_pci) {
  if (!query_pci.is_array()) return;
  for (const json::value& bus : query_pci.get_array())
    if (bus.is_object())
      if (const json::value* devices = bus.get_object().if_contains("devices")) add_pci_devices(*devices, 0);
}

void DeviceMap::add_pci_devices(const json::value& devices, int depth) {
  if (!devices.is_array() || depth > kDeepestBridge) return;
  for (const json::value& entry : devices.get_array()) {
    if (!entry.is_object()) continue;
    const json::object& device = entry.get_object();
    std::string owner = word(device, "qdev_id").substr(0, kLongestName);
    if (owner.empty())
      owner = fmt::format("PCI {:02x}:{:02x}.{:x}", number(device, "bus"), number(device, "slot"),
                          number(device, "function"));
    add_pci_regions(device, owner);
    const json::value* bridge = device.if_contains("pci_bridge");
    if (bridge && bridge->is_object())
      if (const json::value* below = bridge->get_object().if_contains("devices"))
        add_pci_devices(*below, depth + 1);
  }
}

void DeviceMap::add_pci_regions(const json::object& device, const std::string& owner) {
  const json::value* regions = device.if_contains("regions");
  if (!regions || !regions->is_array()) return;
  for (const json::value& entry : regions->get_array()) {
    if (!entry.is_object() || owners_.size() == kMost) return;
    const json::object& region = entry.get_object();
    const std::uint64_t first = number(region, "address"), size = number(region, "size");
    // A BAR that the guest has not placed yet reads as all ones.
    if (size == 0 || first > UINT64_MAX - (size - 1)) continue;
    owners_.push_back({word(region, "type") == "io", first, first + (size - 1), owner});
  }
}

const DeviceMap::Range* DeviceMap::find(const std::vector<Range>& ranges, bool port, std::uint64_t address) {
  const auto found = std::find_if(ranges.begin(), ranges.end(), [&](const Range& range) {
    return range.port == port && address >= range.first && address <= range.last;
  });
  return found == ranges.end() ? nullptr : &*found;
}

std::string DeviceMap::find(kvm_exits_kind kind, std::uint64_t address) const {
  if (kind != KVM_EXITS_KIND_PIO && kind != KVM_EXITS_KIND_MMIO) return {};
  const bool port = kind == KVM_EXITS_KIND_PIO;
  const Range* region = find(ranges_, port, address);
  const Range* owner = find(owners_, port, address);
  if (!region) return owner ? owner->name : std::string();
  return owner ? region->name + " of " + owner->name : region->name;
}

}  // namespace vmwhy::kvm_exits
