// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What a QEMU command line tells: name, accelerator, QMP monitors, disks. Both of QEMU's syntaxes
// ("key=value,…" with ",," for a comma, and JSON) are read. Secrets are noticed, not kept. The text is
// untrusted: whatever cannot be understood is passed over.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "qmp/discovery.hpp"

namespace vmwhy::qmp {

/// One option's argument as keys and values. A JSON object's members are joined with dots: "file.filename".
class OptionArgument {
 public:
  /// @param implied  the key of a first part that has none; without '=' a part is a flag: "on".
  OptionArgument(std::string_view text, std::string_view implied);
  /// "" if there is no such key.
  std::string_view get(std::string_view key) const;
  bool is_on(std::string_view key) const;
  const std::vector<std::pair<std::string, std::string>>& parts() const { return parts_; }

 private:
  std::vector<std::pair<std::string, std::string>> parts_;
};

/// Where a QMP monitor of the command line listens.
struct MonitorEndpoint {
  std::string path;  ///< Unix: as written; abstract names begin with '@'.
  std::string host;  ///< TCP.
  std::string port;
  int fd = -1;  ///< A listening socket that was passed to QEMU.
};

struct CommandLine {
  std::string name;
  std::string uuid;
  std::string accelerator;  ///< The first that was asked for; "" if none was.
  std::string machine;
  std::string vmid;  ///< Proxmox: -id.
  std::vector<MonitorEndpoint> monitors;
  std::vector<CommandLineDisk> disks;  ///< With passwords masked.
  bool has_secrets = false;
};

CommandLine parse_command_line(const std::vector<std::string>& arguments);

/// `url` without the password of "scheme://user:password@host" and the key of "rbd:…:key=…".
/// @param masked  set to true if there was one.
std::string mask_url(std::string_view url, bool& masked);

}  // namespace vmwhy::qmp
