// SPDX-License-Identifier: BSD-2-Clause
#include "host/net_namespace.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>

#include <cstdlib>
#include <string>

namespace vmwhy::host {
namespace {

constexpr const char* kOwn = "/proc/thread-self/ns/net";

std::string path_of(std::uint32_t pid) {
  return "/proc/" + std::to_string(pid) + "/ns/net";
}

}  // namespace

NetNamespace::NetNamespace(std::uint32_t pid) {
  struct stat ours {
  }, theirs{};
  const std::string path = path_of(pid);
  if (::stat(kOwn, &ours) != 0 || ::stat(path.c_str(), &theirs) != 0) return;
  if (ours.st_ino == theirs.st_ino) {
    ok_ = true;
    return;
  }
  UniqueFd own(::open(kOwn, O_RDONLY | O_CLOEXEC));
  const UniqueFd target(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!own || !target || ::setns(target.get(), CLONE_NEWNET) != 0) return;
  own_ = std::move(own);
  ok_ = true;
}

NetNamespace::~NetNamespace() {
  // Left in a stranger's network this thread would connect to the wrong monitors.
  if (own_ && ::setns(own_.get(), CLONE_NEWNET) != 0) std::abort();
}

}  // namespace vmwhy::host
