// SPDX-License-Identifier: BSD-2-Clause
#include "host/quota.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/dqblk_xfs.h>
#include <linux/fs.h>
#include <linux/quota.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <ctime>

#include "core/unique_fd.hpp"

namespace vmwhy::host {
namespace {

constexpr std::uint64_t kQuotaBlock = 1024;  // Of the limits, whatever the file system's block is.

void add(int fd, int type, const char* kind, std::uint32_t id, std::string& out) {
  if_dqblk quota{};
  if (::syscall(SYS_quotactl_fd, fd, QCMD(Q_GETQUOTA, type), id, &quota) != 0) return;
  const bool overdue = quota.dqb_bsoftlimit != 0 && quota.dqb_btime != 0 &&
                       quota.dqb_btime <= static_cast<std::uint64_t>(::time(nullptr));
  const std::uint64_t limit = (overdue ? quota.dqb_bsoftlimit : quota.dqb_bhardlimit) * kQuotaBlock;
  if (limit == 0) return;
  out += fmt::format("{}{}:{}:{}:{}", out.empty() ? "" : " ", kind, id, quota.dqb_curspace, limit);
}

/// FS_QUOTA_*_ENFD: a file system may count for a quota and not hold anybody to it.
unsigned enforced(int fd) {
  fs_quota_statv state{};
  state.qs_version = FS_QSTATV_VERSION1;
  return ::syscall(SYS_quotactl_fd, fd, QCMD(Q_XGETQSTATV, USRQUOTA), 0, &state) == 0 ? state.qs_flags : 0;
}

}  // namespace

std::string quotas_of(const std::string& path, uid_t user, gid_t group) {
  std::string out;
  // O_PATH: a file system's server hears nothing of it.
  const UniqueFd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!fd) return out;
  const unsigned kinds = enforced(fd.get());
  if (kinds & FS_QUOTA_UDQ_ENFD) add(fd.get(), USRQUOTA, "user", user, out);
  if (kinds & FS_QUOTA_GDQ_ENFD) add(fd.get(), GRPQUOTA, "group", group, out);
  if ((kinds & FS_QUOTA_PDQ_ENFD) == 0) return out;
  const UniqueFd opened(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  fsxattr attributes{};
  if (opened && ::ioctl(opened.get(), FS_IOC_FSGETXATTR, &attributes) == 0)
    add(fd.get(), PRJQUOTA, "project", attributes.fsx_projid, out);
  return out;
}

}  // namespace vmwhy::host
