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

  /// The device takes the file's present size (`losetup -c`).
  void update_size() const;

  /// Lets the device go now: cleared as soon as nobody else has it open.
  void detach();

 private:
  std::string path_;
  UniqueFd fd_;
};

}  // namespace vmwhy::test
