// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Who is at the other end of a monitor: a process as /proc shows it. All texts are untrusted.

#include <cstdint>
#include <string>

namespace vmwhy::tap {

struct Peer {
  std::uint32_t pid = 0;     ///< 0: not known, or another host's.
  std::uint32_t uid = 0;     ///< Valid where pid is.
  std::string comm;          ///< "" if it was gone before it could be looked at.
  std::string command_line;  ///< Blanks between the arguments; with passwords masked.
  std::string user;          ///< By /etc/passwd; "" if it is not there.
  std::string container;     ///< Identifier of its container; "" if it is in none.
  std::string ancestors;     ///< "virsh (12) ← bash (11) ← sshd (10)": its parents, the nearest first.

  /// "libvirtd (812)", "pid 812 (gone)".
  std::string to_string() const;
};

/// Looks at a process. Takes 100 ms at worst. @param uid  Who it was when it connected.
Peer look_at_peer(std::uint32_t pid, std::uint32_t uid, const std::string& proc = "/proc");

}  // namespace vmwhy::tap
