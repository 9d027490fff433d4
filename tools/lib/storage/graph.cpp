// SPDX-License-Identifier: BSD-2-Clause
#include "storage/graph.hpp"

#include <algorithm>
#include <set>

#include "record/secrets.hpp"

namespace vmwhy::storage {
namespace {

namespace json = boost::json;

constexpr std::size_t kNodes = 16384;
constexpr int kDepth = 64;

std::string text_of(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  const json::string* text = value != nullptr ? value->if_string() : nullptr;
  return text != nullptr ? std::string(text->data(), std::min<std::size_t>(text->size(), 4096))
                         : std::string();
}

const json::object* object_of(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr ? value->if_object() : nullptr;
}

void add_edge(Graph& graph, const std::string& above, const char* role, const std::string& below) {
  if (above.empty() || below.empty() || graph.nodes.size() > kNodes) return;
  graph.nodes.try_emplace(below);
  std::vector<GraphNode::Edge>& edges = graph.nodes[above].below;
  for (const GraphNode::Edge& edge : edges)
    if (edge.node == below) return;
  edges.push_back({role, below});
}

/// query-blockstats nests: "parent" is the node's file, whatever its name says, "backing" what it reads from.
void add_edges(Graph& graph, const json::object& entry, int depth) {
  const std::string node = text_of(entry, "node-name");
  if (depth > kDepth) return;
  for (const char* below : {"parent", "backing"}) {
    const json::object* child = object_of(entry, below);
    if (child == nullptr) continue;
    add_edge(graph, node, std::string_view(below) == "parent" ? "file" : "backing",
             text_of(*child, "node-name"));
    add_edges(graph, *child, depth + 1);
  }
}

void add_nodes(Graph& graph, const json::array& list) {
  for (const json::value& entry : list) {
    const json::object* object = entry.if_object();
    if (object == nullptr || graph.nodes.size() >= kNodes) continue;
    const std::string name = text_of(*object, "node-name");
    if (name.empty()) continue;
    GraphNode& node = graph.nodes[name];
    node.driver = text_of(*object, "drv");
    node.filename = record::mask_secrets(text_of(*object, "file"));
    const json::value* children = object->if_contains("children");
    if (children == nullptr || !children->is_array()) continue;
    for (const json::value& child : children->get_array()) {
      const json::object* named = child.if_object();
      if (named == nullptr) continue;
      const std::string role = text_of(*named, "child");
      add_edge(graph, name, role == "backing" ? "backing" : "file", text_of(*named, "node-name"));
    }
  }
}

}  // namespace

std::string device_name(const std::string& path) {
  constexpr std::string_view kPeripheral = "/machine/peripheral/";
  if (path.compare(0, kPeripheral.size(), kPeripheral) != 0) return path;
  const std::string rest = path.substr(kPeripheral.size());
  return rest.substr(0, rest.find('/'));
}

std::vector<std::string> Graph::loose() const {
  std::set<std::string> under;
  for (const GuestDevice& device : devices) under.insert(device.node);
  for (const auto& entry : nodes)
    for (const GraphNode::Edge& edge : entry.second.below) under.insert(edge.node);
  std::vector<std::string> out;
  for (const auto& entry : nodes)
    if (!under.contains(entry.first)) out.push_back(entry.first);
  return out;
}

bool Graph::is_under(const std::string& node, const std::string& above) const {
  std::vector<std::string> todo{above};
  std::set<std::string> seen;
  while (!todo.empty()) {
    const std::string name = todo.back();
    todo.pop_back();
    if (name == node) return true;
    if (!seen.insert(name).second) continue;
    const auto at = nodes.find(name);
    if (at == nodes.end()) continue;
    for (const GraphNode::Edge& edge : at->second.below) todo.push_back(edge.node);
  }
  return false;
}

Graph parse_graph(const json::value& named_block_nodes, const json::value& block,
                  const json::value& blockstats) {
  Graph graph;
  if (named_block_nodes.is_array()) add_nodes(graph, named_block_nodes.get_array());
  if (blockstats.is_array())
    for (const json::value& entry : blockstats.get_array())
      if (entry.is_object()) add_edges(graph, entry.get_object(), 0);
  if (!block.is_array()) return graph;
  for (const json::value& entry : block.get_array()) {
    const json::object* object = entry.if_object();
    if (object == nullptr || graph.devices.size() >= kNodes) continue;
    const std::string qdev = text_of(*object, "qdev"), drive = text_of(*object, "device");
    const json::object* inserted = object_of(*object, "inserted");
    GuestDevice device{
        qdev.empty() ? drive : device_name(qdev),
        "",
    };
    if (inserted != nullptr) device.node = text_of(*inserted, "node-name");
    graph.devices.push_back(std::move(device));
  }
  return graph;
}

Graph graph_of(const std::vector<NodePath>& nodes) {
  Graph graph;
  for (const NodePath& node : nodes)
    graph.nodes[node.node.empty() ? node.path : node.node].filename = node.path;
  return graph;
}

}  // namespace vmwhy::storage
