// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Mounts of a test. They live in a mount namespace of the test process and its children, so that they vanish
// with them however they end, and nobody else sees them.

#include <cstdint>
#include <filesystem>
#include <string>

namespace vmwhy::test {

class Mount {
 public:
  /// mount(2); type "bind" shows the file or folder `source` there. @throws std::system_error.
  Mount(std::string source, std::filesystem::path target, std::string type, std::string options = {});
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;
  ~Mount();  ///< Lazily: an open file does not keep it.

  const std::filesystem::path& path() const { return target_; }
  std::string operator/(std::string_view name) const { return (target_ / name).string(); }

  /// Changes its options: remount("size=64m").
  void remount(const std::string& options) const;

 private:
  std::string source_;
  std::filesystem::path target_;
  std::string type_;
};

/// An overlay at `target` of the folder `lower`, which is made where it is not there; what is written goes to
/// `upper`.
class Overlay {
 public:
  Overlay(const std::filesystem::path& upper, const std::filesystem::path& lower,
          const std::filesystem::path& target);
  std::string operator/(std::string_view name) const { return mount_ / name; }

 private:
  Mount mount_;
};

/// Bytes of the file system that are free for anybody.
std::uint64_t free_bytes(const std::filesystem::path& path);

/// Writes files below `folder` until it has no free block. Returns the file.
std::string fill_up(const std::filesystem::path& folder);

}  // namespace vmwhy::test
