// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A real QEMU of a test. It starts stopped (-S), so that no event is lost before somebody listens; its files
// lie in the test's folder; it is killed and reaped when the test ends, however it ends.
//
// Two monitors: one for the test (qmp()), one for the program under test (monitor()).

#include <boost/json/object.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "child_process.hpp"
#include "qmp_probe.hpp"
#include "temp_dir.hpp"

namespace vmwhy::test {

struct QemuOptions {
  std::string name = "vm";  ///< Also the stem of its files; unique within a folder.
  std::string boot;         ///< A guest of tests/guests: "writer.bin" boots from floppy, *.elf by -kernel.
  std::vector<std::string> args;  ///< More arguments.
  std::string accel = "tcg";
  int memory_mb = 32;
  bool oob = false;               ///< The test's own monitor negotiates out-of-band execution.
  std::vector<std::string> by{};  ///< A program that becomes QEMU in the end, given its command line.
};

class QemuProcess {
 public:
  /// @throws std::runtime_error with QEMU's stderr when its monitor does not answer.
  QemuProcess(const TempDir& dir, QemuOptions options);

  pid_t pid() const { return child_.pid(); }
  ChildProcess& process() { return child_; }
  QmpProbe& qmp() { return qmp_; }
  const std::string& monitor() const { return monitor_; }  ///< Socket for the program under test.
  const std::string& name() const { return options_.name; }
  std::string serial() const { return read_file(stem_ + ".serial"); }
  std::string stderr_text() const { return read_file(stem_ + ".stderr"); }

  boost::json::object call(std::string_view command, const boost::json::object& arguments = {}) {
    return qmp_.call(command, arguments);
  }
  std::string hmp(std::string_view line);  ///< human-monitor-command; its output.
  void cont() { call("cont"); }
  void stop() { call("stop"); }

  std::string run_state();  ///< query-status.
  bool wait_run_state(std::string_view state);

 private:
  QemuOptions options_;
  std::string stem_, monitor_;
  ChildProcess child_;
  QmpProbe qmp_;
};

// ---- disks: arguments for QemuOptions::args. The node that the guest's device uses is "disk0", the one
// below it "file0".

/// `image` as disk. `driver` is that of the file: file, host_device; `device` that of the guest: virtio-blk,
/// virtio-scsi, ide. werror=stop, rerror=stop.
std::vector<std::string> disk(const std::string& image, const std::string& format = "raw",
                              const std::string& driver = "file", const std::string& file_options = {},
                              const std::string& device = "virtio-blk");

/// A disk whose requests of `iotype` ("read", "write") that touch offset 2 MiB fail with `error`;
/// `once`: only the first.
std::vector<std::string> failing_disk(const std::string& image, const std::string& iotype, int error,
                                      bool once = false,
                                      const std::string& device_options = "werror=stop,rerror=stop");

}  // namespace vmwhy::test
