// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A loop device over a file. Made with autoclear: the kernel frees it when the last opener is gone, even when
// the test was killed.

#include <cstdint>
#include <string>

#include "core/unique_fd.hpp"

namespace vmwhy::test {

class LoopDevice {
 public:
  /// @throws std::system_error.
  explicit LoopDevice(const std::string& file);
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;
  ~LoopDevice();

  const std::string& path() const { return path_; }  ///< "/dev/loop3"
  std::string name() const { return path_.substr(5); }

  /// The device becomes this small, at one moment: truncating the file and `losetup -c` would race with a
  /// write that makes the file grow again. 0: a dead device. Give whole sectors. Waits while it is written
  /// to.
  /// @throws std::system_error.
  void shrink(std::uint64_t bytes) const;

  /// Lets the device go now: cleared as soon as nobody else has it open.
  void detach();

 private:
  std::string path_;
  UniqueFd fd_;
};

}  // namespace vmwhy::test
