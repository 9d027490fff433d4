// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One thing in the way of a VM's storage (guest device, block node, file, file system, host device), with
// what lies below it. Plain data: how it is found stands in device_stack.hpp and map.hpp.

#include <boost/json/object.hpp>
#include <string>
#include <vector>

namespace vmwhy::host {

struct Item {
  /// "guest device", "node", "file", "fs", "disk", "partition", "loop", "lv", "thin-volume", "thin-pool",
  /// "dm-crypt", "multipath", "dm", "md", "nbd", "remote", "unknown".
  std::string kind;
  std::string name;
  std::string detail;         ///< One line for people.
  boost::json::object facts;  ///< The same for programs; snake_case, units in the names.
  std::string note;           ///< Why it ends here, or what is wrong with it; empty: nothing.
  std::vector<Item> below;
};

/// A tree, one line each, `indent` spaces deep. Text of others is made printable.
std::string to_text(const Item& item, int indent = 0);
/// {"kind", "name", …facts, "note", "below": […]}; empty members are left out.
boost::json::object to_json(const Item& item);

}  // namespace vmwhy::host
