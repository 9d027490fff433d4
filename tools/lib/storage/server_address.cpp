// SPDX-License-Identifier: BSD-2-Clause
#include "storage/server_address.hpp"

#include <algorithm>
#include <boost/json/parse.hpp>
#include <charconv>

namespace vmwhy::storage {
namespace {

namespace json = boost::json;

constexpr std::size_t kNodes = 16384;
constexpr int kDepth = 16;

struct Client {
  std::string_view driver;
  std::uint16_t port;
};
constexpr Client kClients[] = {{"nbd", 10809}, {"iscsi", 3260}, {"ssh", 22},
                               {"http", 80},   {"https", 443},  {"nfs", 2049}};

const Client* client_of(std::string_view driver) {
  const auto* at = std::ranges::find(kClients, driver, &Client::driver);
  return at != std::end(kClients) ? at : nullptr;
}

std::optional<std::uint16_t> port_of(std::string_view text) {
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size() || port == 0) return std::nullopt;
  return port;
}

std::string text_of(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  const json::string* text = value != nullptr ? value->if_string() : nullptr;
  if (value != nullptr && value->is_int64()) return std::to_string(value->get_int64());
  return text != nullptr ? std::string(text->data(), std::min<std::size_t>(text->size(), 4096))
                         : std::string();
}

/// "server": {"host": …} and "server.host" are the same to QEMU.
std::string server_member(const json::object& object, const std::string& key) {
  const json::value* server = object.if_contains("server");
  if (server != nullptr && server->is_object()) return text_of(server->get_object(), key);
  return text_of(object, "server." + key);
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned byte = 0;
    const char* digits = text.data() + i + 1;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2 && byte != 0) {
      out += static_cast<char>(byte);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

/// "host", "host:port", "[::1]:port".
std::optional<ServerAddress> host_and_port(const Client& client, std::string_view text) {
  ServerAddress out{std::string(client.driver), "", "", client.port};
  std::string_view port;
  if (text.starts_with('[')) {
    const std::size_t end = text.find(']');
    if (end == std::string_view::npos) return std::nullopt;
    out.host = text.substr(1, end - 1);
    port = text.substr(end + 1);
  } else {
    out.host = text.substr(0, text.find(':'));
    port = text.substr(out.host.size());
  }
  if (out.host.empty() || (!port.empty() && port.front() != ':')) return std::nullopt;
  if (port.size() > 1) {
    const auto number = port_of(port.substr(1));
    if (!number) return std::nullopt;
    out.port = *number;
  }
  return out;
}

std::optional<ServerAddress> unix_address(std::string_view driver, std::string path) {
  if (path.empty()) return std::nullopt;
  return ServerAddress{std::string(driver), std::move(path), "", 0};
}

/// "nbd+unix:///export?socket=/path", "nbd://host:10809/export", "iscsi://user@portal/target/0".
std::optional<ServerAddress> from_url(std::string_view scheme, std::string_view rest) {
  const bool over_unix = scheme == "nbd+unix" || scheme == "nbds+unix";
  if (over_unix) {
    constexpr std::string_view kKey = "socket=";
    for (std::size_t at = rest.find('?'); at != std::string_view::npos; at = rest.find('&', at + 1)) {
      std::string_view part = rest.substr(at + 1);
      if (!part.starts_with(kKey)) continue;
      part.remove_prefix(kKey.size());
      return unix_address("nbd", percent_decoded(part.substr(0, part.find('&'))));
    }
    return std::nullopt;
  }
  std::string_view driver = scheme.substr(0, scheme.find('+'));
  if (driver == "nbds") driver = "nbd";
  const Client* client = client_of(driver);
  if (client == nullptr) return std::nullopt;
  rest = rest.substr(0, rest.find_first_of("/?"));
  if (const std::size_t at = rest.rfind('@'); at != std::string_view::npos) rest.remove_prefix(at + 1);
  return host_and_port(*client, percent_decoded(rest));
}

std::optional<ServerAddress> of_object(const json::object& object, int depth) {
  if (depth > kDepth) return std::nullopt;
  const std::string driver = text_of(object, "driver");
  if (const Client* client = client_of(driver)) {
    if (std::string path = server_member(object, "path"); driver == "nbd" && !path.empty())
      return unix_address(driver, std::move(path));
    if (driver == "nbd" && !text_of(object, "path").empty())
      return unix_address(driver, text_of(object, "path"));
    std::string host = server_member(object, "host");
    if (host.empty()) host = text_of(object, "host");
    if (!host.empty()) {
      std::string port = server_member(object, "port");
      if (port.empty()) port = text_of(object, "port");
      return ServerAddress{driver, "", host, port_of(port).value_or(client->port)};
    }
    if (const std::string portal = text_of(object, "portal"); !portal.empty())
      return host_and_port(*client, portal);
    return server_of(text_of(object, "url"));
  }
  if (const std::string name = text_of(object, "filename"); !name.empty()) return server_of(name);
  for (const char* const key : {"file", "image", "data-file"}) {
    const json::value* child = object.if_contains(key);
    if (child == nullptr || !child->is_object()) continue;
    if (auto found = of_object(child->get_object(), depth + 1)) return found;
  }
  return std::nullopt;
}

}  // namespace

std::string ServerAddress::to_string() const {
  if (!path.empty()) return path;
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

std::optional<ServerAddress> server_of(std::string_view name) {
  if (name.size() > 65536) return std::nullopt;
  if (name.starts_with("json:")) {
    boost::system::error_code error;
    const json::value value = json::parse(json::string_view(name.substr(5)), error);
    return !error && value.is_object() ? of_object(value.get_object(), 0) : std::nullopt;
  }
  if (const std::size_t colon = name.find("://"); colon != std::string_view::npos)
    return from_url(name.substr(0, colon), name.substr(colon + 3));
  constexpr std::string_view kOld = "nbd:";
  if (!name.starts_with(kOld)) return std::nullopt;
  name.remove_prefix(kOld.size());
  name = name.substr(0, name.find(":exportname="));
  if (name.starts_with("unix:")) return unix_address("nbd", std::string(name.substr(5)));
  return host_and_port(kClients[0], name);
}

std::vector<ServerNode> parse_server_nodes(const json::value& reply) {
  std::vector<ServerNode> out;
  if (!reply.is_array()) return out;
  for (const json::value& entry : reply.get_array()) {
    const json::object* node = entry.if_object();
    if (node == nullptr || out.size() >= kNodes) continue;
    std::string name = text_of(*node, "node-name");
    auto address = server_of(text_of(*node, "file"));
    if (name.empty() || !address) continue;
    const bool is_client = text_of(*node, "drv") == address->driver;
    out.push_back({std::move(name), std::move(*address), is_client});
  }
  return out;
}

std::vector<ServerNode> server_nodes(const std::vector<qmp::CommandLineDisk>& disks) {
  std::vector<ServerNode> out;
  for (const qmp::CommandLineDisk& disk : disks)
    if (auto address = server_of(disk.path)) out.push_back({disk.node, std::move(*address)});
  return out;
}

}  // namespace vmwhy::storage
