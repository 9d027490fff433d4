// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The way of a VM's storage as one tree: guest device, block nodes, file and descriptor, file system, host
// devices. Puts together what others found out; asks nobody.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "host/device_stack.hpp"
#include "host/node_file.hpp"
#include "storage/graph.hpp"

namespace vmwhy::storage {

using host::DeviceStack;
using host::Item;
using host::MountLine;

struct MapInput {
  std::string name;
  std::uint32_t pid = 0;
  Graph graph;
  /// By path; a path that is not here was not looked at.
  std::map<std::string, host::NodeFacts> files;
  std::vector<MountLine> mounts;  ///< Of the VM's mount namespace.
  bool own_namespace = false;     ///< The VM's mount namespace is another one than the host's.
  std::string note;               ///< What could not be asked.
};

/// What lies under one path.
Item map_file(const MapInput& input, const std::string& path, const DeviceStack& stack);
/// @param only  A node: its part of the tree alone; nothing where there is no such node.
std::optional<Item> map_vm(const MapInput& input, const DeviceStack& stack, const std::string& only = {});
/// Where the lowest files of a node are: paths along "file" edges.
std::vector<std::string> paths_of(const Graph& graph, const std::string& node);

}  // namespace vmwhy::storage
