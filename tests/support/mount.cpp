// SPDX-License-Identifier: BSD-2-Clause
#include "mount.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <vector>

#include "core/unique_fd.hpp"

namespace vmwhy::test {

namespace {

// Once per process. Where the kernel refuses a namespace, the mount is made in the one there is.
void enter_own_namespace() {
  static const bool done =
      ::unshare(CLONE_NEWNS) == 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  (void)done;
}

}  // namespace

Mount::Mount(std::string source, std::filesystem::path target, std::string type, std::string options)
    : source_(std::move(source)), target_(std::move(target)), type_(std::move(type)) {
  enter_own_namespace();
  if (!std::filesystem::exists(target_)) std::filesystem::create_directories(target_);
  const unsigned long flags = type_ == "bind" ? MS_BIND : 0;
  if (::mount(source_.c_str(), target_.c_str(), type_.c_str(), flags, options.c_str()) != 0)
    throw std::system_error(errno, std::generic_category(), "mount " + type_ + " on " + target_.string());
}

Mount::~Mount() {
  ::umount2(target_.c_str(), MNT_DETACH);
}

void Mount::remount(const std::string& options) const {
  if (::mount(source_.c_str(), target_.c_str(), type_.c_str(), MS_REMOUNT, options.c_str()) != 0)
    throw std::system_error(errno, std::generic_category(), "remount " + target_.string());
}

namespace {

std::string overlay_options(const std::filesystem::path& upper, const std::filesystem::path& lower) {
  for (const auto& folder : {lower, upper / "upper", upper / "work"})
    std::filesystem::create_directories(folder);
  return "lowerdir=" + lower.string() + ",upperdir=" + (upper / "upper").string() +
         ",workdir=" + (upper / "work").string();
}

}  // namespace

Overlay::Overlay(const std::filesystem::path& upper, const std::filesystem::path& lower,
                 const std::filesystem::path& target)
    : mount_("overlay", target, "overlay", overlay_options(upper, lower)) {}

std::uint64_t free_bytes(const std::filesystem::path& path) {
  struct statvfs fs {};
  if (::statvfs(path.c_str(), &fs) != 0) return 0;
  return std::uint64_t{fs.f_bavail} * fs.f_frsize;
}

std::string fill_up(const std::filesystem::path& folder) {
  const std::string path = folder / "filler";
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!fd) throw std::system_error(errno, std::generic_category(), "open " + path);
  const std::vector<char> zeros(1 << 20);
  for (std::size_t size = zeros.size(); size >= 512;) {
    if (::write(fd.get(), zeros.data(), size) > 0) continue;
    if (errno != ENOSPC && errno != EINTR)
      throw std::system_error(errno, std::generic_category(), "write " + path);
    size /= 2;
  }
  ::fsync(fd.get());
  return path;
}

}  // namespace vmwhy::test
