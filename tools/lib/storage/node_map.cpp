// SPDX-License-Identifier: BSD-2-Clause
#include "storage/node_map.hpp"

#include <boost/json/parse.hpp>

namespace vmwhy::storage {
namespace {

namespace json = boost::json;

std::string_view text_member(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  const json::string* text = value ? value->if_string() : nullptr;
  return text ? std::string_view(*text) : std::string_view();
}

bool on_network(std::string_view driver) {
  for (const std::string_view known : {"nbd", "rbd", "iscsi", "nfs", "ssh", "http", "https", "ftp", "ftps",
                                       "curl", "gluster", "sheepdog", "vxhs", "null-co", "null-aio", "nvme"})
    if (driver == known) return true;
  return false;
}

/// The innermost file name of a block description, along "file" and "image".
std::string path_of_object(const json::object& object, int depth) {
  if (depth > 16 || on_network(text_member(object, "driver"))) return {};
  if (const std::string_view name = text_member(object, "filename"); !name.empty()) return local_path(name);
  for (const char* const key : {"file", "image", "data-file"}) {
    const json::value* child = object.if_contains(key);
    if (!child || !child->is_object()) continue;
    std::string path = path_of_object(child->get_object(), depth + 1);
    if (!path.empty()) return path;
  }
  return {};
}

bool has_scheme(std::string_view name) {
  const auto colon = name.find(':');
  return colon != std::string_view::npos && colon > 0 &&
         name.substr(0, colon).find('/') == std::string_view::npos;
}

}  // namespace

std::string local_path(std::string_view name) {
  if (name.starts_with("json:")) {
    boost::system::error_code error;
    const json::value value = json::parse(json::string_view(name.substr(5)), error);
    return !error && value.is_object() ? path_of_object(value.get_object(), 0) : std::string();
  }
  for (const std::string_view filter : {"blkdebug:", "blkverify:"}) {
    if (!name.starts_with(filter)) continue;
    const auto colon = name.find(':', filter.size());
    return colon == std::string_view::npos ? std::string() : local_path(name.substr(colon + 1));
  }
  for (const std::string_view prefix : {"file:", "host_device:"})
    if (name.starts_with(prefix)) return std::string(name.substr(prefix.size()));
  if (name.empty() || has_scheme(name)) return {};
  return std::string(name);
}

std::vector<NodePath> parse_named_block_nodes(const json::value& reply) {
  std::vector<NodePath> out;
  if (!reply.is_array()) return out;
  for (const json::value& entry : reply.get_array()) {
    const json::object* const node = entry.if_object();
    if (!node || on_network(text_member(*node, "drv"))) continue;
    NodePath found{std::string(text_member(*node, "node-name")), local_path(text_member(*node, "file"))};
    if (!found.node.empty() && !found.path.empty()) out.push_back(std::move(found));
  }
  return out;
}

std::vector<std::pair<std::string, std::uint32_t>> parse_fdsets(const json::value& reply) {
  std::vector<std::pair<std::string, std::uint32_t>> out;
  if (!reply.is_array()) return out;
  for (const json::value& entry : reply.get_array()) {
    const json::object* const set = entry.if_object();
    const json::value* const id = set ? set->if_contains("fdset-id") : nullptr;
    const json::value* const fds = set ? set->if_contains("fds") : nullptr;
    if (!id || !id->is_int64() || !fds || !fds->is_array()) continue;
    for (const json::value& fd : fds->get_array()) {
      const json::value* const number = fd.is_object() ? fd.get_object().if_contains("fd") : nullptr;
      if (!number || !number->is_int64()) continue;
      out.emplace_back("/dev/fdset/" + std::to_string(id->get_int64()),
                       static_cast<std::uint32_t>(number->get_int64()));
      break;  // All descriptors of a set are the same file.
    }
  }
  return out;
}

std::vector<NodePath> from_command_line(const std::vector<qmp::CommandLineDisk>& disks) {
  std::vector<NodePath> out;
  for (const qmp::CommandLineDisk& disk : disks) {
    std::string path = local_path(disk.path);
    if (!path.empty()) out.push_back({disk.node, std::move(path)});
  }
  return out;
}

}  // namespace vmwhy::storage
