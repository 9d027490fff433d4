// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The network namespace of another process, for a look at its sockets: the calling thread is in it as long as
// this lives. Sockets that exist already stay in theirs.

#include <cstdint>

#include "core/unique_fd.hpp"

namespace vmwhy::host {

class NetNamespace {
 public:
  explicit NetNamespace(std::uint32_t pid);
  ~NetNamespace();
  NetNamespace(const NetNamespace&) = delete;
  NetNamespace& operator=(const NetNamespace&) = delete;

  /// The thread sees the process's sockets: its namespace is ours, or could be entered (CAP_SYS_ADMIN).
  bool ok() const { return ok_; }
  /// It is another one than ours.
  bool other() const { return static_cast<bool>(own_); }

 private:
  UniqueFd own_;  ///< The way back; none where it is the same.
  bool ok_ = false;
};

}  // namespace vmwhy::host
