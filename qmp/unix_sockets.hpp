// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What the kernel tells about Unix sockets: who is connected to whom (sock_diag of this network namespace),
// and which process holds a socket (links in /proc/PID/fd). Reads nothing that a sick process can block.

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace vmwhy::qmp {

struct UnixSocket {
  std::uint32_t inode = 0;       ///< 0: not accepted yet.
  std::uint32_t peer_inode = 0;  ///< 0: no peer, or the peer has not been accepted.
  bool listening = false;
  bool connected = false;
  std::uint32_t file_inode = 0;  ///< Of the socket's file; 0: none. Accepted sockets carry their listener's.
  std::string
      path;  ///< As bound; an abstract name begins with '@'. Empty: unnamed. Accepted sockets likewise.
  std::uint64_t unread_bytes = 0;  ///< Sent to it, and not read by its process.
};

/// All stream sockets of this network namespace; empty if sock_diag is not to be had.
std::vector<UnixSocket> dump_unix_sockets();
/// One, by inode.
std::optional<UnixSocket> find_unix_socket(std::uint32_t inode);

/// Which process holds each of `inodes`, as far as /proc/PID/fd may be read and `budget` suffices. Of several
/// processes the one with the lowest pid.
std::map<std::uint32_t, std::uint32_t> find_socket_owners(const std::set<std::uint32_t>& inodes,
                                                          std::chrono::milliseconds budget,
                                                          const std::string& proc = "/proc");

/// The inodes of all sockets of a process; empty if they may not be read.
std::set<std::uint32_t> sockets_of(std::uint32_t pid, const std::string& proc = "/proc");
/// What the connected Unix sockets of that process's network namespace are bound to, by inode, where they
/// have a name. Accepted ones have their listener's.
std::map<std::uint32_t, std::string> bound_paths(std::uint32_t pid, const std::string& proc = "/proc");

/// /proc/PID/comm; "" if there is none.
std::string comm_of(std::uint32_t pid, const std::string& proc = "/proc");
/// The state letter of /proc/PID/stat; '\0' if there is none.
char state_of(std::uint32_t pid, const std::string& proc = "/proc");

/// Sentences on a monitor that does not greet: who else holds it, or what its process does. `fd` is our
/// connected Unix socket, `path` what it is connected to. Takes some 50 ms at worst, and less than that in
/// any one second for all callers together. Empty if nothing can be told.
struct Silence {
  std::string text;
  bool held = false;  ///< Another client holds it: nothing is wrong with its process.
};
Silence explain_silence(int fd, std::uint32_t peer_pid, const std::string& path);

}  // namespace vmwhy::qmp
