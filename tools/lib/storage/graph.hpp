// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A VM's block graph as QMP tells it: guest devices, block nodes, and what lies under which. Replies are
// text of a stranger: sizes and depths are bounded, what does not fit is left out.

#include <boost/json/value.hpp>
#include <map>
#include <string>
#include <vector>

#include "storage/node_map.hpp"

namespace vmwhy::storage {

struct GraphNode {
  std::string driver;    ///< "qcow2", "file"; empty: not known.
  std::string filename;  ///< As QEMU shows it, passwords masked.
  struct Edge {
    std::string role;  ///< "file", "backing".
    std::string node;
  };
  std::vector<Edge> below;
};

struct GuestDevice {
  std::string name;  ///< Its id, or QOM path.
  std::string node;  ///< Empty: no medium.
};

struct Graph {
  std::vector<GuestDevice> devices;
  std::map<std::string, GraphNode> nodes;
  /// Nodes that are under no device and no other node.
  std::vector<std::string> loose() const;
  /// Whether `node` is, or lies under, `above`.
  bool is_under(const std::string& node, const std::string& above) const;
};

/// From the replies to query-named-block-nodes, query-block and query-blockstats; each may be null.
Graph parse_graph(const boost::json::value& named_block_nodes, const boost::json::value& block,
                  const boost::json::value& blockstats);
/// What is known without a monitor.
Graph graph_of(const std::vector<NodePath>& nodes);

/// "vd0" of "/machine/peripheral/vd0/virtio-backend"; the path itself where it has no id.
std::string device_name(const std::string& qom_path);

}  // namespace vmwhy::storage
