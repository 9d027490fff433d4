// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A file system with one file, disk.raw, that can be made to hang: a sick NFS server in miniature. Speaks the
// kernel's FUSE protocol itself, from a thread of the test. When the test dies the kernel fails whatever
// still waits.

#include <filesystem>
#include <memory>
#include <string>

namespace vmwhy::test {

class FuseDisk {
 public:
  static constexpr std::size_t kBytes = 64 << 20;

  /// Mounts at `target`. @throws std::system_error.
  explicit FuseDisk(const std::filesystem::path& target);
  ~FuseDisk();  ///< Lets everything go, then unmounts.
  FuseDisk(const FuseDisk&) = delete;
  FuseDisk& operator=(const FuseDisk&) = delete;

  std::string file() const;

  /// From now on such requests are taken and not answered, until let_go(), or for two minutes.
  void hang_attributes();  ///< stat and statfs
  void hang_data();        ///< read, write, fsync
  void let_go();

  bool hung() const;  ///< A request is being held.

  /// From now on: each write fails with this errno; only half of each is done; each fallocate fails with this
  /// errno (without it the file system has no fallocate).
  void fail_writes(int error);
  void short_writes();
  void fail_allocation(int error);

 private:
  class Server;
  std::unique_ptr<Server> server_;
};

}  // namespace vmwhy::test
