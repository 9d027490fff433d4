// SPDX-License-Identifier: BSD-2-Clause
#include "host/item.hpp"

#include <boost/json/array.hpp>

#include "core/text.hpp"

namespace vmwhy::host {

std::string to_text(const Item& item, int indent) {
  std::string out(static_cast<std::size_t>(indent), ' ');
  out += item.kind + " " + printable(item.name, 256);
  if (!item.detail.empty()) out += "  " + printable(item.detail, 512);
  if (!item.note.empty()) out += "  [" + printable(item.note, 512) + "]";
  out += '\n';
  for (const Item& below : item.below) out += to_text(below, indent + 2);
  return out;
}

boost::json::object to_json(const Item& item) {
  boost::json::object out{{"kind", item.kind}, {"name", item.name}};
  for (const auto& fact : item.facts) out[fact.key()] = fact.value();
  if (!item.note.empty()) out["note"] = item.note;
  if (item.below.empty()) return out;
  boost::json::array below;
  for (const Item& each : item.below) below.push_back(to_json(each));
  out["below"] = std::move(below);
  return out;
}

}  // namespace vmwhy::host
