// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The quotas that a file's space counts for. Asks the kernel (quotactl_fd, Linux 5.14 and later), which may
// wait for the file system: for the children of the helper process only (storage_probe.hpp).

#include <sys/types.h>

#include <string>

namespace vmwhy::host {

/// Those of the file's user, group and project that have a limit of space and are held to it, as
/// "KIND:ID:USED:LIMIT" in bytes: "user:64055:8384512:8388608 project:42:4096:1073741824". A soft limit
/// counts once its time is over. Empty: none, or the kernel does not tell.
/// @param path  Of the file, or of a descriptor in /proc.
std::string quotas_of(const std::string& path, uid_t user, gid_t group);

}  // namespace vmwhy::host
