// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Which VMs the command line means: matches -s, -p, -n and -a with the QEMUs of this host, and remembers what
// has not come yet.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qmp/discovery.hpp"
#include "tools/qmp-pausewatch/options.hpp"

namespace vmwhy::qmp_pausewatch {

/// A VM to be watched.
struct Target {
  qmp::QemuProcess process;              ///< pid 0 where only the monitor is known.
  std::optional<std::string> asked_for;  ///< The monitor that -s named.
};

/// Whether a user who writes `text` means this monitor: by its address, or by any name of its socket file.
bool is_monitor(const qmp::MonitorSocket& monitor, const std::string& text);

class Targets {
 public:
  explicit Targets(const Options& options);

  /// The VMs that `found` adds to those already given out.
  std::vector<Target> take(const std::vector<qmp::QemuProcess>& found);
  /// Sockets of -s that are there now and were not given out; their VM may still be unknown.
  bool sockets_came() const;
  /// The VM of this monitor has ended, or could not be watched: it may come again, as another socket.
  void expect_again(const std::string& asked_for);

  /// A VM that -n named has ended: one of its name or UUID may come again.
  void ended(const qmp::QemuProcess& process);

  /// One sentence for each thing of the command line that is not there.
  std::vector<std::string> missing() const;
  bool waits() const;

 private:
  struct Socket {
    std::string text;  ///< As on the command line.
    std::string path;  ///< Of a Unix socket in the file system; empty for TCP and abstract ones.
    bool taken = false;
    std::uint64_t last_ino = 0;  ///< The socket file whose VM has ended.
    std::int64_t last_ctime_ns = 0;
    std::uint64_t not_before_ns = 0;  ///< Without a file: when to try again.
    int attempts = 0;
  };
  struct Wanted {
    std::string name;  ///< -n.
    std::uint32_t pid = 0;
    bool taken = false;
    bool ended = false;  ///< It was taken, and none is there now.
    bool means(const qmp::QemuProcess& process) const;
  };
  static bool is_there(const Socket& socket);

  const Options& options_;
  std::vector<Socket> sockets_;
  std::vector<Wanted> wanted_;
  std::vector<std::pair<std::uint32_t, std::uint64_t>> given_;  ///< pid and start time.
};

}  // namespace vmwhy::qmp_pausewatch
