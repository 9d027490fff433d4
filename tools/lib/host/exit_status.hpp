// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// How a process that is not our child ended. In order of preference: PIDFD_GET_INFO of its pidfd
// (Linux 6.15), the zombie's /proc/PID/stat, the netlink process connector. One thread: the io_context's.

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/failure.hpp"
#include "core/unique_fd.hpp"
#include "host/process.hpp"
#include "trace/records.hpp"

namespace vmwhy::host {

/// A wait(2) status, taken apart.
trace::VmEnd decode_wait_status(std::uint32_t pid, std::int32_t status);

/// Whether this kernel tells the exit status of a process through its pidfd.
bool pidfd_tells_exit();

/// Opens a pidfd. Errors: ESRCH, or EPERM/ENOSYS where the kernel does not let us.
Result<UniqueFd> open_pidfd(std::uint32_t pid);

/// The wait(2) status by PIDFD_GET_INFO; nothing where the kernel does not say, or the process lives.
std::optional<std::int32_t> exit_status_of(int pidfd);

/// Exits of all processes of this host, as the kernel's process connector reports them; needs CAP_NET_ADMIN.
/// For kernels whose pidfds do not tell.
class ProcessConnector {
 public:
  /// Errors: errno; the remedy names the right.
  static Result<std::unique_ptr<ProcessConnector>> open(boost::asio::io_context& io);
  ~ProcessConnector();

  /// The wait(2) status of a process that ended since open(); nothing if it was not seen.
  std::optional<std::int32_t> status_of(std::uint32_t pid);
  /// Only these processes are remembered.
  void remember(std::uint32_t pid);
  void forget(std::uint32_t pid);

 private:
  class Impl;
  explicit ProcessConnector(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

/// Tells when one process has ended, and how.
class ExitWatch {
 public:
  /// The end, and the sentence that says how it was learned.
  using Handler = std::function<void(const trace::VmEnd&, const std::string& how)>;

  /// @param connector  May be null. Errors: ESRCH: it is gone already.
  static Result<std::unique_ptr<ExitWatch>> start(boost::asio::io_context& io, std::uint32_t pid,
                                                  ProcessConnector* connector, Handler handler);
  ~ExitWatch();

 private:
  class Impl;
  explicit ExitWatch(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace vmwhy::host
