// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The connections of QEMU's own clients (NBD, iSCSI, …) to their servers: looks at the sockets from outside,
// and tells of a server that does not answer, while it does not. Sends nothing, and asks neither QEMU nor the
// server. One thread.
//
// A connection waits for its server while the server has not read what was sent, or its machine has not
// acknowledged it, or (TCP) data went after the last that came, or QEMU has requests in flight over it. An
// idle connection does none of that. The wait begins anew with each sign of the server's work.

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "host/tcp_sockets.hpp"
#include "record/recorder.hpp"
#include "storage/server_address.hpp"
#include "trace/link_records.hpp"

namespace vmwhy::storage {

/// What QEMU itself tells of the requests of the guest devices over some nodes.
struct GuestWaits {
  std::optional<std::uint64_t> quiet_ns;   ///< How long no request of them has ended.
  std::optional<std::uint32_t> in_flight;  ///< How many have not ended.
};

class ServerLinks {
 public:
  using AskGuest = std::function<GuestWaits(std::uint32_t vm, const std::vector<std::string>& nodes)>;
  /// @param hang_ns  A server that has not answered for so long hangs.
  ServerLinks(record::Recorder& recorder, std::uint64_t hang_ns, AskGuest ask_guest);

  /// The nodes of a VM that have a server, all of them.
  void learn(std::uint32_t vm, std::uint32_t pid, const std::vector<ServerNode>& nodes);
  void forget(std::uint32_t vm);
  /// Looks at every connection, and records those that are new, wait for a second or more, have got their
  /// answer, or are gone.
  /// @param of  Of this VM, or of kAll, each is recorded; 0: none for its own sake.
  static constexpr std::uint32_t kAll = UINT32_MAX;
  void look(std::uint64_t now_ns, std::uint32_t of = 0);
  /// When the next connection will have waited for `hang_ns`, if nothing happens until then.
  std::optional<std::uint64_t> next_hang_ns() const;
  /// A server that does not answer this VM for a second or more, as a sentence; empty: none.
  std::string silent(std::uint32_t vm) const;

  struct Link {
    std::uint32_t vm = 0, pid = 0;
    std::vector<std::string> nodes;  ///< All that are over this server; the clients themselves last.
    ServerAddress address;
    trace::StorageLink now{};
    std::string server;  ///< Its comm.
  };
  std::vector<Link> links() const;
  /// QEMUs in a network namespace of their own: their sockets are not seen.
  const std::set<std::uint32_t>& unseen() const { return unseen_; }

 private:
  struct Server {
    std::uint32_t vm, pid;
    ServerAddress address;
    std::vector<std::string> nodes;
    bool connected = false;
    bool told_absent = false;
    std::uint64_t absent_since_ns = 0;
  };
  struct Connection {
    Link link;
    std::optional<host::TcpSocket> tcp;
    std::uint32_t peer_inode = 0;
    std::uint64_t waits_since_ns = 0;      ///< 0: it does not wait.
    std::uint64_t mark = 0;                ///< Changes with each sign of the server's work.
    std::uint64_t runs = 0;                ///< How often the server's threads were run, when the wait began.
    std::uint64_t retransmitted = 0;       ///< At the look before this one.
    std::uint64_t retransmitted_then = 0;  ///< When the wait began.
    std::uint32_t searches = 0;            ///< For the server's process, in vain.
    bool recorded = false, told = false;
  };
  void find_connections(std::uint64_t now_ns);
  void add(const Server& server, std::uint32_t inode, std::uint32_t peer_inode,
           std::optional<host::TcpSocket> tcp);
  bool look_at_unix(Connection& connection);
  bool look_at_tcp(Connection& connection);
  void judge(Connection& connection, bool own_unread, std::uint64_t now_ns);
  void look_at_server(Connection& connection);
  void look_for_absent(std::uint64_t now_ns);
  void record(Connection& connection, std::uint64_t now_ns);

  record::Recorder& recorder_;
  const std::uint64_t hang_ns_;
  AskGuest ask_guest_;
  std::vector<Server> servers_;
  std::map<std::pair<std::uint32_t, std::uint32_t>, Connection> connections_;  ///< By VM and inode.
  std::set<std::uint32_t> unseen_;
  std::uint64_t searched_ns_ = 0;
  bool search_ = false;
};

}  // namespace vmwhy::storage
