// SPDX-License-Identifier: BSD-2-Clause
#include "trace/create_file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <string_view>

#include "trace/format.hpp"

namespace vmwhy::trace {
namespace {

Failure refused(int error, const std::string& path, std::string remedy) {
  return system_failure(error, "cannot create the trace " + path, std::move(remedy));
}

std::string remedy_of(int error) {
  switch (error) {
    case ENOENT:
      return "make its folder first";
    case EACCES:
    case EPERM:
      return "choose a place where you may write";
    case EROFS:
    case ENOSPC:
    case EDQUOT:
      return "choose a place on another file system";
    default:
      return {};
  }
}

// What is there already, without opening it: opening a device can do things.
std::optional<Failure> unfit(const std::string& path, const struct stat& st) {
  if (S_ISLNK(st.st_mode))
    return refused(ELOOP, path,
                   "it is a symbolic link, and a trace is never written through one: name the file itself");
  if (S_ISDIR(st.st_mode)) return refused(EISDIR, path, "name a file in it");
  if (!S_ISREG(st.st_mode))
    return refused(EINVAL, path, "it is a device, FIFO or socket: a trace needs a regular file");
  if (st.st_uid != ::geteuid())
    return refused(EEXIST, path, "it belongs to another user: remove it, or choose another name");
  return std::nullopt;
}

std::optional<Failure> lock(int fd, const std::string& path) {
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return std::nullopt;
  return refused(EBUSY, path, "another recording is writing to it: choose another name");
}

// Takes an existing file, if it is empty. Evidence that was recorded before is never given up for new.
std::optional<Failure> take_empty(int fd, const std::string& path) {
  if (auto failure = lock(fd, path)) return failure;
  struct stat st {};
  if (::fstat(fd, &st) == 0 && st.st_size != 0) {
    std::string magic(kFileMagic.size(), '\0');
    const bool trace = ::pread(fd, magic.data(), magic.size(), 0) == static_cast<ssize_t>(magic.size()) &&
                       magic == kFileMagic;
    return refused(EEXIST, path,
                   trace ? "it holds an earlier recording: move that away, or choose another name"
                         : "it is not a trace and is left alone: choose another name");
  }
  if (::fchmod(fd, 0600) != 0) {
    const int error = errno;
    return refused(error, path, remedy_of(error));
  }
  return std::nullopt;
}

}  // namespace

Result<CreatedFile> create_trace_file(const std::string& path) {
  // A file that comes and goes between our looks is looked at again, a few times.
  for (int attempt = 0; attempt < 4; ++attempt) {
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (fd) {
      if (auto failure = lock(fd.get(), path)) return *failure;
      return CreatedFile{std::move(fd), true};
    }
    if (errno != EEXIST) {
      const int error = errno;
      return refused(error, path, remedy_of(error));
    }
    const UniqueFd seen(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat before {
    }, after{};
    if (!seen || ::fstat(seen.get(), &before) != 0) continue;
    if (auto failure = unfit(path, before)) return *failure;
    fd.reset(::open(path.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!fd) {
      const int error = errno;
      if (error == ENOENT) continue;
      return refused(error, path, remedy_of(error));
    }
    if (::fstat(fd.get(), &after) != 0 || after.st_dev != before.st_dev || after.st_ino != before.st_ino)
      continue;
    if (auto failure = take_empty(fd.get(), path)) return *failure;
    return CreatedFile{std::move(fd), false};
  }
  return refused(EBUSY, path, "something keeps replacing it: choose another name");
}

}  // namespace vmwhy::trace
