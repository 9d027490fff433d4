// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What tests share that make storage causes for real and show what they were called.

#include <gtest/gtest.h>

#include <filesystem>
#include <iostream>
#include <map>
#include <string>

#include "tests/support/child_process.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::test {

constexpr std::uint64_t kDiskBytes = 64 << 20;

/// Waits until a request of the guest has ended.
inline bool writes(const QemuProcess& vm) {
  return wait_until([&] { return vm.serial().find('.') != std::string::npos; });
}

/// How an image is used.
struct Way {
  std::string format = "raw";   ///< Of the image.
  std::string aio = "threads";  ///< "native" and "io_uring" with O_DIRECT where `direct`.
  bool direct = false;
  std::string options() const { return "aio=" + aio + (direct || aio == "native" ? ",cache.direct=on" : ""); }
};

/// An image of 64 MiB in the way's format, in a file or on a device.
inline std::string image_in(const std::string& path, const Way& way) {
  if (way.format == "raw") return std::filesystem::is_block_file(path) ? path : sparse_file(path, kDiskBytes);
  EXPECT_EQ(run_program({"qemu-img", "create", "-q", "-f", way.format, path, "64M"}).status.code, 0);
  return path;
}

/// What was made, what it was called, how often.
class ConfusionMatrix {
 public:
  void count(const std::string& is, const std::string& called) { ++called_[is][called]; }
  void print() const {
    std::cout << "confusion matrix (what it is: what it was called, times)\n";
    for (const auto& [is, called] : called_) {
      std::cout << "  " << is << ":";
      for (const auto& [name, times] : called) std::cout << " " << name << " " << times;
      std::cout << "\n";
    }
  }

 private:
  std::map<std::string, std::map<std::string, int>> called_;
};

}  // namespace vmwhy::test
