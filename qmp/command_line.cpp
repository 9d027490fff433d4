// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/command_line.hpp"

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cstdlib>
#include <map>

namespace vmwhy::qmp {
namespace {

namespace json = boost::json;
using Parts = std::vector<std::pair<std::string, std::string>>;

std::string scalar_text(const json::value& value) {
  if (value.is_string()) return std::string(value.get_string());
  if (value.is_bool()) return value.get_bool() ? "on" : "off";
  return json::serialize(value);
}

// NOLINTNEXTLINE(misc-no-recursion): the parser bounds the depth.
void flatten(const std::string& prefix, const json::object& object, Parts& parts) {
  for (const auto& member : object) {
    const std::string key = prefix + std::string(member.key());
    if (member.value().is_object())
      flatten(key + ".", member.value().get_object(), parts);
    else
      parts.emplace_back(key, scalar_text(member.value()));
  }
}

bool flatten_json(std::string_view text, Parts& parts) {
  if (!text.starts_with('{')) return false;
  boost::system::error_code error;
  const json::value value = json::parse(text, error);
  if (!error && value.is_object()) flatten("", value.get_object(), parts);
  return true;
}

// Up to the next single comma; a doubled one stands for a comma.
std::string next_part(std::string_view& text) {
  std::string out;
  std::size_t i = 0;
  for (; i < text.size(); ++i) {
    if (text[i] != ',') {
      out += text[i];
    } else if (i + 1 < text.size() && text[i + 1] == ',') {
      out += ',';
      ++i;
    } else {
      break;
    }
  }
  text.remove_prefix(std::min(text.size(), i + 1));
  return out;
}

bool ends_with_password(std::string_view key) {
  return key == "password" || key.ends_with(".password") || key == "passwd";
}

class Reader {
 public:
  CommandLine read(const std::vector<std::string>& arguments);

 private:
  void option(std::string_view name, const std::string& value);
  bool identity(std::string_view name, const std::string& value);
  bool character_device(std::string_view name, const std::string& value);
  bool disk(std::string_view name, const std::string& value);
  void secrets(std::string_view name, const std::string& value);
  void monitor_device(const std::string& value);
  void chardev(const OptionArgument& argument);
  void add_disk(const OptionArgument& argument);
  void place_nodes_above();
  void add_disk(std::string_view node, std::string_view path);
  void add_nbd(const OptionArgument& argument, std::string_view node);

  struct Chardev {
    MonitorEndpoint endpoint;
    bool usable = false;
  };
  CommandLine out_;
  std::map<std::string, Chardev> chardevs_;
  std::vector<std::pair<std::string, std::string>> above_;  ///< Nodes, and the node that each stands on.
  std::vector<std::string> control_;
};

bool listens(const OptionArgument& argument, std::string_view key) {
  return argument.is_on(key) && argument.get(std::string("no") + std::string(key)).empty();
}

void Reader::chardev(const OptionArgument& argument) {
  const std::string_view backend =
      argument.get("backend").empty() ? argument.get("backend.type") : argument.get("backend");
  if (backend != "socket") return;
  const auto either = [&](const char* plain, const char* nested) {
    const std::string_view value = argument.get(plain);
    return std::string(value.empty() ? argument.get(nested) : value);
  };
  Chardev device;
  device.endpoint.path = either("path", "backend.data.addr.data.path");
  device.endpoint.host = either("host", "backend.data.addr.data.host");
  device.endpoint.port = either("port", "backend.data.addr.data.port");
  const std::string fd = either("fd", "backend.data.addr.data.str");
  if (!fd.empty() && fd.find_first_not_of("0123456789") == std::string::npos && fd.size() < 7)
    device.endpoint.fd = std::atoi(fd.c_str());
  if (argument.is_on("abstract") && !device.endpoint.path.empty()) device.endpoint.path.insert(0, "@");
  // A chardev that connects to somebody is no socket that we could connect to.
  device.usable = listens(argument, "server") || argument.is_on("backend.data.server");
  chardevs_[std::string(argument.get("id"))] = std::move(device);
}

// -qmp DEVICE: "unix:PATH,server=on", "tcp:HOST:PORT,server".
void Reader::monitor_device(const std::string& value) {
  const std::size_t colon = value.find(':');
  if (colon == std::string::npos) return;
  const std::string kind = value.substr(0, colon);
  const OptionArgument argument(std::string_view(value).substr(colon + 1), "where");
  if (!listens(argument, "server")) return;
  MonitorEndpoint endpoint;
  const std::string where(argument.get("where"));
  if (kind == "unix") {
    endpoint.path = (argument.is_on("abstract") ? "@" : "") + where;
  } else if (kind == "tcp" || kind == "telnet") {
    const std::size_t last = where.rfind(':');
    if (kind == "telnet" || last == std::string::npos) return;
    endpoint.host = where.substr(0, last);
    if (endpoint.host.size() >= 2 && endpoint.host.front() == '[')
      endpoint.host = endpoint.host.substr(1, endpoint.host.size() - 2);
    endpoint.port = where.substr(last + 1);
  } else {
    return;
  }
  out_.monitors.push_back(std::move(endpoint));
}

bool Reader::character_device(std::string_view name, const std::string& value) {
  if (name == "qmp" || name == "qmp-pretty") {
    monitor_device(value);
  } else if (name == "chardev") {
    chardev(OptionArgument(value, "backend"));
  } else if (name == "mon") {
    const OptionArgument argument(value, "chardev");
    if (argument.get("mode") == "control") control_.emplace_back(argument.get("chardev"));
  } else {
    return false;
  }
  return true;
}

bool Reader::identity(std::string_view name, const std::string& value) {
  const auto accelerator = [&](std::string_view list) {
    if (!list.empty() && out_.accelerator.empty())
      out_.accelerator = std::string(list.substr(0, list.find(':')));
  };
  if (name == "name") {
    out_.name = std::string(OptionArgument(value, "guest").get("guest"));
  } else if (name == "uuid") {
    out_.uuid = value;
  } else if (name == "id") {
    out_.vmid = value;
  } else if (name == "accel") {
    const OptionArgument argument(value, "accel");
    accelerator(argument.get("accel"));
  } else if (name == "machine" || name == "M") {
    const OptionArgument argument(value, "type");
    if (!argument.get("type").empty()) out_.machine = std::string(argument.get("type"));
    accelerator(argument.get("accel"));
  } else {
    return false;
  }
  return true;
}

void Reader::add_disk(std::string_view node, std::string_view path) {
  bool masked = false;
  std::string shown = mask_url(path, masked);
  out_.has_secrets |= masked;
  if (!shown.empty()) out_.disks.push_back({std::string(node), std::move(shown)});
}

void Reader::add_disk(const OptionArgument& argument) {
  std::string_view node = argument.get("node-name");
  if (node.empty()) node = argument.get("id");
  add_nbd(argument, node);
  for (const auto& [key, value] : argument.parts()) {
    const bool plain = key == "file" || key == "filename";
    if (!plain && !key.ends_with(".filename") && !key.ends_with("file.path")) continue;
    // With -blockdev, "file" may name another node instead of a path.
    if (key == "file" && !argument.get("driver").empty() && value.find('/') == std::string::npos) {
      if (!node.empty()) above_.emplace_back(node, value);
      continue;
    }
    if (value.starts_with("json:")) {
      Parts nested;
      flatten_json(std::string_view(value).substr(5), nested);
      for (const auto& [inner, path] : nested)
        if (inner == "filename" || inner.ends_with(".filename")) add_disk(node, path);
    } else {
      add_disk(node, value);
    }
  }
}

/// "server.path", "server.host" and "server.port" of an NBD client, in the form in which QEMU names it
/// itself.
std::string nbd_name(const OptionArgument& argument, const std::string& prefix) {
  const auto get = [&](const char* key) {
    const std::string_view value = argument.get(prefix + "server." + key);
    return std::string(value.empty() ? argument.get(prefix + key) : value);
  };
  if (const std::string path = get("path"); !path.empty()) return "nbd+unix://?socket=" + path;
  const std::string host = get("host"), port = get("port");
  if (host.empty()) return {};
  const bool v6 = host.find(':') != std::string::npos;
  return "nbd://" + (v6 ? "[" + host + "]" : host) + (port.empty() ? "" : ":" + port);
}

void Reader::add_nbd(const OptionArgument& argument, std::string_view node) {
  for (const auto& [key, value] : argument.parts()) {
    const bool driver = key == "driver" || key.ends_with(".driver");
    if (!driver || value != "nbd") continue;
    if (const std::string name = nbd_name(argument, key.substr(0, key.size() - 6)); !name.empty())
      add_disk(node, name);
  }
}

bool Reader::disk(std::string_view name, const std::string& value) {
  static constexpr std::string_view kPlain[] = {"hda", "hdb", "hdc", "hdd",      "cdrom",
                                                "fda", "fdb", "sd",  "mtdblock", "pflash"};
  if (name == "drive" || name == "blockdev") {
    add_disk(OptionArgument(value, "file"));
  } else if (std::find(std::begin(kPlain), std::end(kPlain), name) != std::end(kPlain)) {
    add_disk(name, value);
  } else {
    return false;
  }
  return true;
}

void Reader::secrets(std::string_view name, const std::string& value) {
  const OptionArgument argument(value, name == "object" ? "qom-type" : "");
  if (name == "object" && argument.get("qom-type").starts_with("secret") && !argument.get("data").empty())
    out_.has_secrets = true;
  for (const auto& [key, content] : argument.parts())
    if (ends_with_password(key) && !content.empty() && content != "off" && content != "on")
      out_.has_secrets = true;
}

void Reader::option(std::string_view name, const std::string& value) {
  if (name == "object" || name == "spice" || name == "iscsi" || name == "drive" || name == "blockdev")
    secrets(name, value);
  if (identity(name, value) || character_device(name, value)) return;
  disk(name, value);
}

CommandLine Reader::read(const std::vector<std::string>& arguments) {
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    std::string_view name = arguments[i];
    if (!name.starts_with('-') || name.size() < 2) continue;
    name.remove_prefix(name.starts_with("--") ? 2 : 1);
    if (name == "enable-kvm") {
      out_.accelerator = "kvm";
      continue;
    }
    if (i + 1 < arguments.size() && !arguments[i + 1].starts_with('-')) option(name, arguments[++i]);
  }
  for (const std::string& id : control_) {
    const auto found = chardevs_.find(id);
    if (found != chardevs_.end() && found->second.usable) out_.monitors.push_back(found->second.endpoint);
  }
  place_nodes_above();
  return std::move(out_);
}

/// A node above another one stands on the same file. QEMU wants the lower one first, so one pass is enough.
void Reader::place_nodes_above() {
  for (const auto& pair : above_) {
    const auto file = std::find_if(out_.disks.begin(), out_.disks.end(),
                                   [&](const CommandLineDisk& disk) { return disk.node == pair.second; });
    if (file != out_.disks.end()) out_.disks.push_back({pair.first, std::string(file->path)});
  }
}

}  // namespace

OptionArgument::OptionArgument(std::string_view text, std::string_view implied) {
  if (flatten_json(text, parts_)) return;
  for (bool first = true; !text.empty(); first = false) {
    const std::string part = next_part(text);
    const std::size_t equals = part.find('=');
    if (equals != std::string::npos)
      parts_.emplace_back(part.substr(0, equals), part.substr(equals + 1));
    else if (first && !implied.empty())
      parts_.emplace_back(implied, part);
    else
      parts_.emplace_back(part, "on");
  }
}

std::string_view OptionArgument::get(std::string_view key) const {
  for (const auto& part : parts_)
    if (part.first == key) return part.second;
  return {};
}

bool OptionArgument::is_on(std::string_view key) const {
  const std::string_view value = get(key);
  return value == "on" || value == "yes" || value == "true";
}

std::string mask_url(std::string_view url, bool& masked) {
  std::string out(url);
  const std::size_t scheme = out.find("://");
  if (scheme != std::string::npos) {
    const std::size_t begin = scheme + 3;
    const std::size_t at = out.substr(0, out.find('/', begin)).rfind('@');
    const std::size_t colon = out.find(':', begin);
    if (at != std::string::npos && at > begin && colon < at) {
      out.replace(colon + 1, at - colon - 1, "***");
      masked = true;
    }
  }
  if (const std::size_t key = out.find(":key="); out.starts_with("rbd:") && key != std::string::npos) {
    std::size_t end = key + 5;
    while (end < out.size() && (out[end] != ':' || out[end - 1] == '\\')) ++end;
    out.replace(key + 5, end - key - 5, "***");
    masked = true;
  }
  return out;
}

CommandLine parse_command_line(const std::vector<std::string>& arguments) {
  return Reader().read(arguments);
}

}  // namespace vmwhy::qmp
