// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Servers of a test that QEMU's own clients speak to. They end with the test.

#include <string>
#include <utility>
#include <vector>

#include "child_process.hpp"
#include "temp_dir.hpp"

namespace vmwhy::test {

class StorageServer {
 public:
  /// As a report names it.
  const std::string& address() const { return address_; }
  ChildProcess& process() { return child_; }

 protected:
  StorageServer(std::string address, ChildProcess::Options options)
      : address_(std::move(address)), child_(std::move(options)) {}

 private:
  std::string address_;
  ChildProcess child_;
};

/// An NBD server (nbdkit) with a disk of 64 MiB in memory.
class NbdServer : public StorageServer {
 public:
  /// @throws std::runtime_error when it does not come up.
  NbdServer(const TempDir& dir, const std::vector<std::string>& filters = {},
            const std::vector<std::string>& settings = {});
  /// Over TCP, on 127.0.0.1.
  explicit NbdServer(const std::vector<std::string>& filters = {},
                     const std::vector<std::string>& settings = {});
  /// As nbd_disk takes it.
  const std::string& socket() const { return socket_; }

 private:
  NbdServer(std::string socket, const std::vector<std::string>& filters,
            const std::vector<std::string>& settings);
  std::string socket_;
};

/// A disk behind an NBD server: the path of its socket, or a number, its port on 127.0.0.1. `device` without
/// its drive. The nodes are named as those of qemu.hpp's disks.
std::vector<std::string> nbd_disk(
    const std::string& socket, const std::string& options = {},
    const std::string& device = "virtio-blk-pci,id=vd0,werror=stop,rerror=stop");

/// An iSCSI target (tgtd) with one disk, of what a file holds, on 127.0.0.1.
class IscsiTarget : public StorageServer {
 public:
  /// @throws std::runtime_error when it does not come up.
  IscsiTarget(const TempDir& dir, const std::string& file);
  std::string url() const;
  void make_read_only() const {
    administer("logicalunit", {"--op", "update", "--lun", "1", "--params", "readonly=1"});
  }

 private:
  IscsiTarget(const std::string& control, const std::string& file, const std::string& address);
  /// tgtadm of the target, in that mode.
  void administer(const std::string& mode, const std::vector<std::string>& operation) const;

  std::string control_;  ///< Its socket, without the number that tgtd adds.
};

/// The disk of a target, as by nbd_disk.
std::vector<std::string> iscsi_disk(
    const IscsiTarget& target, const std::string& device = "virtio-blk-pci,id=vd0,werror=stop,rerror=stop");

}  // namespace vmwhy::test
