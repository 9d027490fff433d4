// SPDX-License-Identifier: BSD-2-Clause
#include "tools/vm-iowatch/events.hpp"

#include <fmt/format.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstring>

#include "core/text.hpp"

namespace vmwhy::vm_iowatch {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
/// How much earlier than what it caused a failure may have been.
constexpr std::uint64_t kBefore = 2 * kSecond;
constexpr std::size_t kKept = 1024;

std::string name_of_errno(int error) {
  const char* name = strerrorname_np(error);
  return name != nullptr ? name : std::to_string(error);
}

std::string text_of(const boost::json::object& object, const char* key) {
  const auto* value = object.if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

std::string range_text(const trace::IoSyscall& io) {
  if (io.operation == static_cast<std::uint32_t>(trace::IoOperation::flush)) return "";
  return io.length == UINT64_MAX ? fmt::format(" at offset {}", io.offset)
                                 : fmt::format(" of {} bytes at offset {}", io.length, io.offset);
}

std::uint64_t kernel_to_user(std::uint32_t dev) {
  return makedev(dev >> 20, dev & 0xfffff);
}

}  // namespace

const char* operation_name(std::uint32_t operation) {
  constexpr const char* kNames[] = {"", "read", "write", "flush", "allocate", "discard", "zeroes", "other"};
  return operation < std::size(kNames) ? kNames[operation] : "other";
}

boost::json::object to_json(const Event& event) {
  boost::json::object out{{"schema", "vmwhy.io/1"}, {"kind", event.kind}, {"time_ns", event.time_ns}};
  const auto add = [&](const char* key, const std::string& value) {
    if (!value.empty()) out[key] = value;
  };
  const auto add_number = [&](const char* key, const std::optional<std::uint64_t>& value) {
    if (value) out[key] = *value;
  };
  add("vm", event.vm);
  add("node", event.node);
  add("op", event.op);
  add("layer", event.layer);
  add("device", event.device);
  add("path", event.path);
  add("address", event.address);
  add_number("offset", event.offset);
  add_number("sector", event.sector);
  add_number("length", event.length);
  add("errno", event.errno_name);
  add("status", event.status);
  add_number("latency_ns", event.latency_ns);
  out["chain"] = event.chain;
  return out;
}

Events::Events(FindVm find_vm, const storage::DeviceStack& stack, std::string node, Handler handler)
    : find_vm_(std::move(find_vm)), stack_(stack), node_(std::move(node)), handler_(std::move(handler)) {}

void Events::learn(const Vm& vm) {
  for (const auto& [path, facts] : vm.map().files) {
    const auto nodes = vm.nodes_of(path);
    Place place;
    place.node = nodes.empty() ? "" : nodes.front();
    place.fs_type = facts.fs_type;
    place.mount = facts.mount_point;
    std::vector<storage::Item> todo{storage::map_file(vm.map(), path, stack_)};
    while (!todo.empty()) {
      const storage::Item item = std::move(todo.back());
      todo.pop_back();
      const auto* major_number = item.facts.if_contains("major");
      const auto* minor_number = item.facts.if_contains("minor");
      if (major_number != nullptr && minor_number != nullptr)
        place.disks.emplace_back(item.name, makedev(major_number->to_number<std::uint32_t>(),
                                                    minor_number->to_number<std::uint32_t>()));
      todo.insert(todo.end(), item.below.begin(), item.below.end());
    }
    places_[{vm.id(), path}] = std::move(place);
  }
}

const Events::Place* Events::place_of(std::uint32_t vm, const std::string& path) const {
  const auto at = places_.find({vm, path});
  return at == places_.end() ? nullptr : &at->second;
}

bool Events::wanted(const Vm* vm, const std::string& node) const {
  return node_.empty() || (vm != nullptr && !node.empty() && vm->map().graph.is_under(node, node_));
}

const Events::Block* Events::block_under(const Place* place, std::uint64_t time_ns) const {
  if (place == nullptr) return nullptr;
  for (const Block& block : blocks_) {
    if (block.time_ns + kBefore < time_ns || block.time_ns > time_ns) continue;
    const bool under = std::any_of(place->disks.begin(), place->disks.end(),
                                   [&](const auto& disk) { return disk.second == block.io.dev; });
    if (under) return &block;
  }
  return nullptr;
}

const Events::Call* Events::call_under(const Vm& vm, const std::string& node, bool read,
                                       std::uint64_t time_ns) const {
  for (const Call& call : calls_) {
    if (call.vm != vm.id() || call.time_ns + kBefore < time_ns || call.time_ns > time_ns) continue;
    const bool is_read = call.io.operation == static_cast<std::uint32_t>(trace::IoOperation::read);
    const Place* place = place_of(call.vm, call.path);
    if (is_read == read && place != nullptr && vm.map().graph.is_under(place->node, node)) return &call;
  }
  return nullptr;
}

void Events::add_block(Event& event, const Block& block) const {
  event.chain.push_back(boost::json::object{{"layer", "block"},
                                            {"device", block.disk},
                                            {"op", operation_name(block.io.operation)},
                                            {"sector", block.io.sector},
                                            {"length", block.io.length},
                                            {"errno", name_of_errno(static_cast<int>(block.io.error))},
                                            {"status", block.status}});
  event.text += fmt::format(
      " ← {}: {} at sector {}: {}", printable(block.disk), operation_name(block.io.operation),
      block.io.sector,
      block.status.empty() ? name_of_errno(static_cast<int>(block.io.error)) : block.status + " error");
}

void Events::add_call(Event& event, const Call& call, const Place* place) const {
  boost::json::object link{{"layer", "syscall"},
                           {"call", call.call},
                           {"path", call.path},
                           {"thread", call.io.tid},
                           {"offset", call.io.offset}};
  if (call.io.length != UINT64_MAX) link["length"] = call.io.length;
  if (call.io.result < 0) link["errno"] = name_of_errno(static_cast<int>(-call.io.result));
  if (call.io.result >= 0) link["result"] = call.io.result;
  if (call.io.duration_ns != 0) link["latency_ns"] = call.io.duration_ns;
  event.chain.push_back(std::move(link));
  if (place != nullptr && !place->fs_type.empty())
    event.chain.push_back(
        boost::json::object{{"layer", "fs"}, {"fs_type", place->fs_type}, {"mount", place->mount}});
}

void Events::on_call(const Call& call) {
  const Place* place = place_of(call.vm, call.path);
  const Vm* vm = find_vm_(call.vm);
  Event event;
  const auto what = static_cast<trace::IoWhat>(call.io.what);
  event.kind = what == trace::IoWhat::slow ? "slow" : what == trace::IoWhat::under_way ? "hang" : "error";
  event.time_ns = call.time_ns;
  event.vm = vm != nullptr ? vm->name() : "";
  event.node = place != nullptr ? place->node : "";
  if (!wanted(vm, event.node)) return;
  event.op = operation_name(call.io.operation);
  event.layer = "syscall";
  event.path = call.path;
  event.offset = call.io.offset;
  if (call.io.length != UINT64_MAX) event.length = call.io.length;
  if (call.io.duration_ns != 0) event.latency_ns = call.io.duration_ns;
  if (call.io.result < 0 && event.kind == "error")
    event.errno_name = name_of_errno(static_cast<int>(-call.io.result));
  const std::string took = human_duration(static_cast<std::int64_t>(call.io.duration_ns));
  event.text =
      fmt::format("{}{}{} of {} ({}, thread {})", event.node.empty() ? "" : "node " + event.node + ": ",
                  event.op, range_text(call.io), call.path, call.call, call.io.tid);
  if (event.kind == "hang") event.text += " has not ended after " + took;
  if (event.kind == "slow") event.text += " took " + took;
  if (what == trace::IoWhat::short_) event.text += fmt::format(" did only {} bytes", call.io.result);
  if (!event.errno_name.empty()) event.text += " failed with " + event.errno_name;
  if (!event.node.empty())
    event.chain.push_back(boost::json::object{{"layer", "qemu"}, {"node", event.node}});
  add_call(event, call, place);
  const Block* block = event.kind == "error" ? block_under(place, call.time_ns) : nullptr;
  if (block != nullptr) {
    event.device = block->disk;
    event.sector = block->io.sector;
    event.status = block->status;
    add_block(event, *block);
  } else if (place != nullptr && !place->disks.empty()) {
    event.device = place->disks.front().first;
  }
  handler_(event);
}

void Events::on_block(const Block& block) {
  // A disk that no watched node lies on is somebody else's.
  const Vm* vm = nullptr;
  const Place* place = nullptr;
  for (const auto& entry : places_) {
    const bool under = std::any_of(entry.second.disks.begin(), entry.second.disks.end(),
                                   [&](const auto& disk) { return disk.second == block.io.dev; });
    const Vm* its = under ? find_vm_(entry.first.first) : nullptr;
    if (its == nullptr || !wanted(its, entry.second.node)) continue;
    if (place != nullptr) {
      vm = nullptr;  // Several nodes lie on it: whose request it was cannot be told.
      break;
    }
    vm = its;
    place = &entry.second;
  }
  if (place == nullptr) return;
  Event event;
  event.kind = "error";
  event.time_ns = block.time_ns;
  event.layer = "block";
  if (vm != nullptr) event.vm = vm->name(), event.node = place->node;
  event.op = operation_name(block.io.operation);
  event.device = block.disk;
  event.sector = block.io.sector;
  event.length = block.io.length;
  event.errno_name = name_of_errno(static_cast<int>(block.io.error));
  event.status = block.status;
  event.text = "disk " + block.disk + ": a request failed";
  add_block(event, block);
  handler_(event);
}

void Events::take(const trace::RecordView& record) {
  const auto keep = [](auto& list, auto entry) {
    list.push_back(std::move(entry));
    if (list.size() > kKept) list.pop_front();
  };
  const std::string first(trace::text_field(record.text, 0)), second(trace::text_field(record.text, 1));
  if (record.type() == trace::RecordType::io_syscall) {
    const Call call{record.header.time_ns, record.header.vm, record.as<trace::IoSyscall>(), first, second};
    const bool failed = call.io.what == static_cast<std::uint32_t>(trace::IoWhat::failed) ||
                        call.io.what == static_cast<std::uint32_t>(trace::IoWhat::short_);
    if (failed) keep(calls_, call);
    on_call(call);
  } else if (record.type() == trace::RecordType::io_block) {
    const Block block{record.header.time_ns, record.as<trace::IoBlock>(), first, second};
    keep(blocks_, block);
    on_block(block);
  }
}

void Events::take(const Vm& vm, const qmp::Event& qmp_event) {
  if (qmp_event.name != "BLOCK_IO_ERROR") return;
  Event event;
  event.kind = "error";
  event.time_ns = qmp_event.arrival_ns;
  event.layer = "qemu";
  event.vm = vm.name();
  event.node = text_of(qmp_event.data, "node-name");
  if (!wanted(&vm, event.node)) return;
  event.op = text_of(qmp_event.data, "operation");
  const std::string reason = text_of(qmp_event.data, "reason"), action = text_of(qmp_event.data, "action");
  event.chain.push_back(boost::json::object{
      {"layer", "qemu"}, {"node", event.node}, {"op", event.op}, {"reason", reason}, {"action", action}});
  event.text = fmt::format("node {}: {} failed as the guest sees it: {} (action: {})", event.node, event.op,
                           reason, action);
  const auto lowest = storage::paths_of(vm.map().graph, event.node);
  if (!lowest.empty()) event.path = lowest.front();
  const Place* place = place_of(vm.id(), event.path);
  if (const Call* call = call_under(vm, event.node, event.op == "read", event.time_ns)) {
    place = place_of(vm.id(), call->path);
    event.path = call->path;
    event.offset = call->io.offset;
    if (call->io.length != UINT64_MAX) event.length = call->io.length;
    if (call->io.result < 0) event.errno_name = name_of_errno(static_cast<int>(-call->io.result));
    event.text += fmt::format(" ← {}{} of {}{}", call->call, range_text(call->io), call->path,
                              event.errno_name.empty() ? fmt::format(" did only {} bytes", call->io.result)
                                                       : ": " + event.errno_name);
    add_call(event, *call, place);
  }
  if (const Block* block = block_under(place, event.time_ns)) {
    event.device = block->disk;
    event.sector = block->io.sector;
    event.status = block->status;
    add_block(event, *block);
  }
  handler_(event);
}

void Events::look(const std::vector<io_ledger_block_slot>& under_way, std::uint64_t now_ns,
                  std::uint64_t hang_ns, bool again) {
  decltype(hung_) still;
  for (const io_ledger_block_slot& slot : under_way) {
    if (slot.start_ns + hang_ns > now_ns) continue;
    const auto told = hung_.find(slot.owner);
    still[slot.owner] = slot.start_ns;
    if (told != hung_.end() && told->second == slot.start_ns && !again) continue;
    Event event;
    event.kind = "hang";
    event.time_ns = now_ns;
    event.layer = "block";
    event.op = operation_name(slot.op);
    for (const auto& entry : places_)
      for (const auto& disk : entry.second.disks)
        if (disk.second == kernel_to_user(slot.dev)) event.device = disk.first;
    event.sector = slot.sector;
    event.length = slot.length;
    event.latency_ns = now_ns - slot.start_ns;
    event.text = fmt::format("disk {}: {} at sector {} has not ended after {}", event.device, event.op,
                             slot.sector, human_duration(static_cast<std::int64_t>(*event.latency_ns)));
    event.chain.push_back(boost::json::object{
        {"layer", "block"}, {"device", event.device}, {"op", event.op}, {"sector", slot.sector}});
    if (node_.empty()) handler_(event);
  }
  hung_ = std::move(still);
}

}  // namespace vmwhy::vm_iowatch
