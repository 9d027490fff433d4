// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A folder of a test's own below $VMWHY_TEST_TMP (default /tmp), removed with all it holds when the test
// ends.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace vmwhy::test {

class TempDir {
 public:
  TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir();

  const std::filesystem::path& path() const { return path_; }
  std::string operator/(std::string_view name) const { return (path_ / name).string(); }

  /// Writes a file of the folder; returns its path.
  std::string write(std::string_view name, std::string_view content) const;

  /// Copies a file to where every user can reach it: the checkout may lie in a folder that only its owner may
  /// enter. Opens the folder itself to everybody. Returns the copy's path.
  std::string copy_for_everybody(const std::filesystem::path& file) const;

  /// A sparse file of `bytes`; returns its path.
  std::string sparse(std::string_view name, std::uint64_t bytes) const;

 private:
  std::filesystem::path path_;
};

/// A sparse file of `bytes` anywhere; returns its path.
std::string sparse_file(const std::string& path, std::uint64_t bytes);

/// The whole file; empty when it cannot be read.
std::string read_file(const std::filesystem::path& path);

}  // namespace vmwhy::test
