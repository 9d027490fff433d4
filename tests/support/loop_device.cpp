// SPDX-License-Identifier: BSD-2-Clause
#include "loop_device.hpp"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <system_error>

namespace vmwhy::test {

namespace {
[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}
}  // namespace

LoopDevice::LoopDevice(const std::string& file) {
  const UniqueFd backing(::open(file.c_str(), O_RDWR | O_CLOEXEC));
  if (!backing) fail("open " + file);
  const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control) fail("open /dev/loop-control");
  // Another process may take the free device before we do.
  for (int tries = 0; tries < 64; ++tries) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) fail("LOOP_CTL_GET_FREE");
    path_ = "/dev/loop" + std::to_string(number);
    fd_.reset(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
    if (!fd_) fail("open " + path_);
    loop_config config{};
    config.fd = static_cast<__u32>(backing.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
    if (::ioctl(fd_.get(), LOOP_CONFIGURE, &config) == 0) return;
    if (errno != EBUSY) fail("LOOP_CONFIGURE " + path_);
  }
  fail("LOOP_CONFIGURE");
}

LoopDevice::~LoopDevice() {
  detach();
}

void LoopDevice::update_size() const {
  if (::ioctl(fd_.get(), LOOP_SET_CAPACITY) != 0) fail("LOOP_SET_CAPACITY " + path_);
}

void LoopDevice::detach() {
  if (!fd_) return;
  ::ioctl(fd_.get(), LOOP_CLR_FD);
  fd_.reset();
}

}  // namespace vmwhy::test
