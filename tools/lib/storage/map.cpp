// SPDX-License-Identifier: BSD-2-Clause
#include "storage/map.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <system_error>

#include "core/text.hpp"

namespace vmwhy::storage {
namespace {

constexpr int kDepth = 64;

std::string note_of(const trace::NodeFile& file) {
  if (file.flags & trace::kNodeUnreachable) return "its storage does not answer";
  if (file.flags & trace::kNodeStatFailed)
    return fmt::format("it cannot be looked at: {}",
                       std::generic_category().message(static_cast<int>(file.error)));
  std::string out;
  const auto add = [&](const char* text) { out += (out.empty() ? "" : "; ") + std::string(text); };
  if (file.flags & trace::kNodeDeleted)
    add("deleted: QEMU's descriptor keeps it");
  else if (file.flags & trace::kNodePathMissing)
    add("the path names nothing now");
  else if (file.flags & trace::kNodePathDiffers)
    add("the path names another file or device now than QEMU's descriptor");
  if (file.flags & trace::kNodeNoFd) add("no descriptor of QEMU shows it: facts are the path's");
  if (file.flags & trace::kNodeReadOnlyFs) add("its file system is mounted read-only");
  return out;
}

Item file_system_of(const MapInput& input, const host::NodeFacts& facts, const DeviceStack& stack) {
  const auto device = static_cast<dev_t>(facts.file.dev);
  const MountLine* found = nullptr;
  for (const MountLine& mount : input.mounts)
    if (mount.point == facts.mount_point) found = &mount;
  MountLine line;
  if (found != nullptr) line = *found;
  if (found == nullptr) {
    line.point = facts.mount_point.empty() ? "(no mount point shown)" : facts.mount_point;
    line.type = facts.fs_type.empty() ? "unknown" : facts.fs_type;
    line.source = facts.mount_source;
    line.root = "/";
    line.major = major(device);
    line.minor = minor(device);
  }
  Item item = stack.file_system(line);
  if (facts.file.fs_size_bytes != 0) {
    item.facts["free_bytes"] = facts.file.fs_free_bytes;
    item.facts["size_bytes"] = facts.file.fs_size_bytes;
    item.detail += fmt::format(", {} free of {}", human_bytes(facts.file.fs_free_bytes),
                               human_bytes(facts.file.fs_size_bytes));
  }
  return item;
}

bool is_remote(const GraphNode& node, const std::string& path) {
  return path.empty() && !node.filename.empty();
}

Item node_item(const MapInput& input, const std::string& name, const std::string& role,
               const DeviceStack& stack, int depth) {
  Item item{"node", name, "", {}, "", {}};
  const auto at = input.graph.nodes.find(name);
  if (at == input.graph.nodes.end() || depth > kDepth) {
    item.note = depth > kDepth ? "the chain goes deeper than this looks" : "QEMU does not list this node";
    return item;
  }
  const GraphNode& node = at->second;
  item.detail = node.driver;
  item.facts["driver"] = node.driver;
  if (!role.empty()) {
    item.facts["role"] = role;
    item.detail += (item.detail.empty() ? "" : ", ") + role;
  }
  for (const GraphNode::Edge& edge : node.below)
    item.below.push_back(node_item(input, edge.node, edge.role, stack, depth + 1));
  if (!node.below.empty()) return item;
  const std::string path = local_path(node.filename);
  if (!path.empty())
    item.below.push_back(map_file(input, path, stack));
  else if (is_remote(node, path))
    item.below.push_back({"remote", node.filename, node.driver, {{"transport", node.driver}}, "", {}});
  else
    item.note = "what lies under it is not told";
  return item;
}

}  // namespace

Item map_file(const MapInput& input, const std::string& path, const DeviceStack& stack) {
  Item item{"file", path, "", {{"path", path}}, "", {}};
  const auto at = input.files.find(path);
  if (at == input.files.end()) {
    item.note = "it was not looked at";
    return item;
  }
  const host::NodeFacts& facts = at->second;
  item.note = note_of(facts.file);
  if (facts.file.flags & (trace::kNodeUnreachable | trace::kNodeStatFailed)) return item;
  if ((facts.file.flags & trace::kNodeNoFd) == 0) {
    item.facts["fd"] = facts.file.fd;
    item.detail = fmt::format("fd {}", facts.file.fd);
  }
  if (input.own_namespace) item.facts["mount_namespace"] = "of the VM";
  if (S_ISBLK(facts.file.mode)) {
    const auto device = static_cast<dev_t>(facts.file.rdev);
    item.facts["device"] = fmt::format("{}:{}", major(device), minor(device));
    item.below.push_back(stack.device(major(device), minor(device)));
    return item;
  }
  const auto device = static_cast<dev_t>(facts.file.dev);
  item.facts["dev"] = fmt::format("{}:{}", major(device), minor(device));
  item.facts["inode"] = facts.file.ino;
  item.facts["size_bytes"] = facts.file.size_bytes;
  item.facts["allocated_bytes"] = facts.file.allocated_bytes;
  item.detail += fmt::format("{}{}, {} allocated", item.detail.empty() ? "" : ", ",
                             human_bytes(facts.file.size_bytes), human_bytes(facts.file.allocated_bytes));
  item.below.push_back(file_system_of(input, facts, stack));
  return item;
}

std::optional<Item> map_vm(const MapInput& input, const DeviceStack& stack, const std::string& only) {
  Item vm{"vm", input.name, input.pid != 0 ? fmt::format("pid {}", input.pid) : "", {}, input.note, {}};
  if (input.pid != 0) vm.facts["pid"] = input.pid;
  if (input.own_namespace) vm.detail += ", in a mount namespace of its own";
  if (!only.empty()) {
    if (!input.graph.nodes.contains(only)) return std::nullopt;
    vm.below.push_back(node_item(input, only, "", stack, 0));
    return vm;
  }
  for (const GuestDevice& device : input.graph.devices) {
    Item item{"guest device", device.name, "", {}, device.node.empty() ? "no medium" : "", {}};
    if (!device.node.empty()) item.below.push_back(node_item(input, device.node, "", stack, 0));
    vm.below.push_back(std::move(item));
  }
  for (const std::string& node : input.graph.loose()) {
    Item item = node_item(input, node, "", stack, 0);
    if (!input.graph.devices.empty()) item.detail += ", under no guest device";
    vm.below.push_back(std::move(item));
  }
  return vm;
}

std::vector<std::string> paths_of(const Graph& graph, const std::string& node) {
  std::string name = node;
  for (int depth = 0; depth < kDepth; ++depth) {
    const auto at = graph.nodes.find(name);
    if (at == graph.nodes.end()) return {};
    std::string next;
    for (const GraphNode::Edge& edge : at->second.below)
      if (edge.role == "file") next = edge.node;
    if (next.empty()) {
      const std::string path = local_path(at->second.filename);
      return path.empty() ? std::vector<std::string>{} : std::vector<std::string>{path};
    }
    name = next;
  }
  return {};
}

}  // namespace vmwhy::storage
