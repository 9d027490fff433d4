// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/trace_file.hpp"

#include <sys/utsname.h>

#include <ctime>

#include "cli/cli.hpp"
#include "host/proc_file.hpp"
#include "record/secrets.hpp"

namespace vmwhy::qmp_pausewatch {
namespace {

std::string os_name() {
  const std::string release = host::read_or_empty("/etc/os-release");
  const auto begin = release.find("PRETTY_NAME=\"");
  if (begin == std::string::npos) return {};
  const std::string rest = release.substr(begin + 13);
  return rest.substr(0, rest.find('"'));
}

}  // namespace

std::string default_trace_name(const Options& options, const std::vector<Target>& targets) {
  std::string name = "all";
  if (!options.all && targets.size() > 1) name = std::to_string(targets.size()) + "-vms";
  if (!options.all && targets.size() <= 1) {
    name = targets.empty() ? "" : targets[0].process.name;
    if (name.empty() && !targets.empty() && targets[0].process.pid != 0)
      name = "pid" + std::to_string(targets[0].process.pid);
    if (name.empty() && !options.sockets.empty())
      name = options.sockets[0].substr(options.sockets[0].rfind('/') + 1);
    if (name.empty() && !options.names.empty()) name = options.names[0];
    if (name.empty()) name = "vm";
  }
  // A guest's name is text of a stranger: it must stay one plain file name.
  for (char& c : name) {
    const bool plain =
        (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '.';
    if (!plain) c = '_';
  }
  name.resize(std::min<std::size_t>(name.size(), 64));
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char date[32];
  std::strftime(date, sizeof(date), "%Y%m%dT%H%M%SZ", &utc);
  return "vmwhy-" + name + "-" + date + ".vmt";
}

boost::json::object trace_meta(const Options& options) {
  utsname kernel{};
  ::uname(&kernel);
  boost::json::object host{{"name", kernel.nodename},
                           {"kernel", kernel.release},
                           {"kernel_version", kernel.version},
                           {"machine", kernel.machine},
                           {"os", os_name()}};
  boost::json::object marks;
  for (const auto& mark : options.marks) marks[mark.first] = mark.second;
  return {{"tool", "qmp-pausewatch"},
          {"version", cli::version()},
          {"args", record::mask_secrets(options.args)},
          {"host", std::move(host)},
          {"marks", std::move(marks)}};
}

}  // namespace vmwhy::qmp_pausewatch
