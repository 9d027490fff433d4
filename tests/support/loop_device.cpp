// SPDX-License-Identifier: BSD-2-Clause
#include "loop_device.hpp"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>

#include "temp_dir.hpp"
#include "wait.hpp"

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

void LoopDevice::shrink(std::uint64_t bytes) const {
  loop_info64 info{};
  if (::ioctl(fd_.get(), LOOP_GET_STATUS64, &info) != 0) fail("LOOP_GET_STATUS64 " + path_);
  if (bytes == 0)
    info.lo_offset = std::uint64_t{1} << 50;  // behind the file's end: nothing is left of it
  else
    info.lo_sizelimit = bytes;
  // EAGAIN: pages became dirty again after the kernel wrote them back.
  wait_until([&] { return ::ioctl(fd_.get(), LOOP_SET_STATUS64, &info) == 0 || errno != EAGAIN; });
  const std::string size = read_file("/sys/block/" + name() + "/size");
  if (size != std::to_string(bytes / 512) + "\n")
    throw std::runtime_error(path_ + " has " + size + " sectors, not " + std::to_string(bytes / 512));
}

void LoopDevice::detach() {
  if (!fd_) return;
  ::ioctl(fd_.get(), LOOP_CLR_FD);
  fd_.reset();
}

}  // namespace vmwhy::test
