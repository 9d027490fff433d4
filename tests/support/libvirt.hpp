// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A libvirt of a test: libvirtd and virtlogd without systemd, with folders of their own in the mount
// namespace of the test process, so that a libvirt that runs on the host is not touched. Its domains are
// emulated (TCG); their QEMUs end with the test, however it ends.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "child_process.hpp"
#include "core/unique_fd.hpp"
#include "mount.hpp"
#include "temp_dir.hpp"

namespace vmwhy::test {

class Libvirt {
 public:
  /// Returns when libvirtd answers. @throws std::runtime_error, with what it said.
  Libvirt();
  ~Libvirt();
  Libvirt(const Libvirt&) = delete;
  Libvirt& operator=(const Libvirt&) = delete;

  /// Defines and starts a domain of this name. @throws std::runtime_error.
  /// @param devices  XML, of its disks; its floppy boots, and finds its disk.
  void start_domain(const std::string& name, const std::string& devices = {},
                    const std::vector<std::string>& options = {});
  Output virsh(std::vector<std::string> args) const;
  /// "paused (user)": virsh domstate --reason.
  std::string state_of(const std::string& name) const;
  /// Of a domain's QEMU; 0: it does not run.
  static pid_t pid_of(const std::string& name);

  pid_t daemon_pid() const { return daemon_->pid(); }
  void kill_daemon() { daemon_.reset(); }
  void start_daemon();

 private:
  /// Ends QEMUs: libvirt makes them nobody's children.
  class Undertaker {
   public:
    Undertaker();
    ~Undertaker();
    Undertaker(const Undertaker&) = delete;
    Undertaker& operator=(const Undertaker&) = delete;

   private:
    UniqueFd alive_;  ///< Closed when this process ends, too.
    pid_t pid_ = -1;
  };

  TempDir dir_;
  std::vector<std::unique_ptr<Mount>> mounts_;
  std::optional<Undertaker> undertaker_;
  std::optional<ChildProcess> log_daemon_, daemon_;
  std::vector<std::string> made_;  ///< Folders that were not there.
};

}  // namespace vmwhy::test
