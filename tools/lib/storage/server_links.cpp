// SPDX-License-Identifier: BSD-2-Clause
#include "storage/server_links.hpp"

#include <dirent.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "core/text.hpp"
#include "host/net_namespace.hpp"
#include "host/proc_file.hpp"
#include "qmp/unix_sockets.hpp"
#include "trace/record.hpp"

namespace vmwhy::storage {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
/// A wait that is shorter is none to speak of.
constexpr std::uint64_t kNoted = kSecond;
/// Looking for sockets that are not known yet takes all of them; so often at most.
constexpr std::uint64_t kSearchPause = kSecond;
constexpr std::chrono::milliseconds kOwnerBudget{30};
constexpr std::uint32_t kSearches = 3;

/// How often threads of a process were given a CPU, in all.
std::uint64_t runs_of(std::uint32_t pid) {
  std::uint64_t out = 0;
  const std::string folder = "/proc/" + std::to_string(pid) + "/task";
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(folder.c_str()), &::closedir);
  if (!dir) return 0;
  while (const dirent* entry = ::readdir(dir.get())) {
    if (entry->d_name[0] == '.') continue;
    std::string text = host::read_or_empty(folder + "/" + entry->d_name + "/schedstat", 256);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    out += host::parse_u64(std::string_view(text).substr(text.rfind(' ') + 1)).value_or(0);
  }
  return out;
}

/// The same socket goes by several paths: relative ones, and through other mount namespaces.
bool same_path(std::string_view a, std::string_view b) {
  if (a == b) return true;
  if (a.starts_with('@') || b.starts_with('@')) return false;
  return !a.empty() && a.substr(a.rfind('/') + 1) == b.substr(b.rfind('/') + 1);
}

bool same_host(const ServerAddress& address, const host::TcpSocket& socket) {
  const auto number = host::parse_ip(address.host);
  // What a name stood for when QEMU connected is not known: the port has to do.
  return socket.remote.port == address.port && (!number || *number == socket.remote.address);
}

std::optional<qmp::UnixSocket> find_unix(std::uint32_t pid, std::uint32_t inode) {
  if (inode == 0) return std::nullopt;
  {
    const host::NetNamespace inside(pid);
    if (auto found = inside.ok() ? qmp::find_unix_socket(inode) : std::nullopt) return found;
    if (!inside.other()) return std::nullopt;
  }
  return qmp::find_unix_socket(inode);
}

trace::StorageLink unknown_link() {
  trace::StorageLink out{};
  out.unread_bytes = out.last_sent_ns = out.last_received_ns = out.last_ack_ns = out.guest_quiet_ns =
      UINT64_MAX;
  out.in_flight = UINT32_MAX;
  return out;
}

}  // namespace

ServerLinks::ServerLinks(record::Recorder& recorder, std::uint64_t hang_ns, AskGuest ask_guest)
    : recorder_(recorder), hang_ns_(hang_ns), ask_guest_(std::move(ask_guest)) {}

void ServerLinks::learn(std::uint32_t vm, std::uint32_t pid, const std::vector<ServerNode>& nodes) {
  std::vector<Server> fresh;
  for (const ServerNode& node : nodes) {
    auto at = std::ranges::find(fresh, node.address, &Server::address);
    if (at == fresh.end()) at = fresh.insert(fresh.end(), Server{vm, pid, node.address, {}});
    at->nodes.insert(node.is_client ? at->nodes.end() : at->nodes.begin(), node.node);
  }
  for (Server& server : fresh)
    for (const Server& before : servers_)
      if (before.vm == vm && before.address == server.address && before.pid == pid) {
        server.connected = before.connected;
        server.told_absent = before.told_absent;
        server.absent_since_ns = before.absent_since_ns;
      }
  std::erase_if(servers_, [&](const Server& server) { return server.vm == vm; });
  std::erase_if(connections_, [&](const auto& entry) {
    if (entry.first.first != vm) return false;
    return entry.second.link.pid != pid ||
           std::ranges::find(fresh, entry.second.link.address, &Server::address) == fresh.end();
  });
  for (auto& [key, connection] : connections_)
    for (const Server& server : fresh)
      if (key.first == vm && server.address == connection.link.address) connection.link.nodes = server.nodes;
  search_ = search_ || !fresh.empty();
  std::ranges::move(fresh, std::back_inserter(servers_));
}

void ServerLinks::forget(std::uint32_t vm) {
  std::erase_if(servers_, [&](const Server& server) { return server.vm == vm; });
  std::erase_if(connections_, [&](const auto& entry) { return entry.first.first == vm; });
}

void ServerLinks::add(const Server& server, std::uint32_t inode, std::uint32_t peer_inode,
                      std::optional<host::TcpSocket> tcp) {
  const auto [at, fresh] = connections_.try_emplace({server.vm, inode});
  if (!fresh) return;
  Connection& connection = at->second;
  connection.link = {server.vm, server.pid, server.nodes, server.address, unknown_link(), ""};
  connection.link.now.socket = inode;
  connection.peer_inode = peer_inode;
  connection.tcp = tcp;
}

void ServerLinks::find_connections(std::uint64_t now_ns) {
  searched_ns_ = now_ns;
  search_ = false;
  std::set<std::uint32_t> pids;
  for (const Server& server : servers_) pids.insert(server.pid);
  unseen_.clear();
  for (const std::uint32_t pid : pids) {
    const std::set<std::uint32_t> own = qmp::sockets_of(pid);
    std::vector<qmp::UnixSocket> unix_sockets;
    std::vector<host::TcpSocket> tcp_sockets;
    bool elsewhere = false;
    {
      const host::NetNamespace inside(pid);
      if (!inside.ok()) {
        unseen_.insert(pid);
        continue;
      }
      elsewhere = inside.other();
      unix_sockets = qmp::dump_unix_sockets();
      tcp_sockets = host::dump_tcp_sockets();
    }
    // The server of a Unix socket may live in another network namespace than QEMU: most likely in ours.
    if (elsewhere) std::ranges::move(qmp::dump_unix_sockets(), std::back_inserter(unix_sockets));
    std::map<std::uint32_t, const qmp::UnixSocket*> by_inode;
    for (const qmp::UnixSocket& socket : unix_sockets) by_inode[socket.inode] = &socket;
    for (const Server& server : servers_) {
      if (server.pid != pid) continue;
      if (server.address.path.empty())
        for (const host::TcpSocket& socket : tcp_sockets)
          if (own.contains(socket.inode) && same_host(server.address, socket) && socket.came_about())
            add(server, socket.inode, 0, socket);
      if (server.address.path.empty()) continue;
      for (const qmp::UnixSocket& socket : unix_sockets) {
        const auto peer = by_inode.find(socket.peer_inode);
        if (socket.connected && own.contains(socket.inode) && socket.peer_inode != 0 &&
            peer != by_inode.end() && socket.path.empty() &&
            same_path(peer->second->path, server.address.path))
          add(server, socket.inode, socket.peer_inode, std::nullopt);
      }
    }
  }
}

/// @return false: it is gone.
bool ServerLinks::look_at_unix(Connection& connection) {
  trace::StorageLink& now = connection.link.now;
  const auto own = find_unix(connection.link.pid, now.socket);
  if (!own || !own->connected || own->peer_inode != connection.peer_inode) return false;
  const auto peer = find_unix(connection.link.pid, connection.peer_inode);
  now.unread_bytes = peer ? peer->unread_bytes : UINT64_MAX;
  connection.mark = now.unread_bytes << 1 | (own->unread_bytes != 0 ? 1 : 0);
  return true;
}

bool ServerLinks::look_at_tcp(Connection& connection) {
  trace::StorageLink& now = connection.link.now;
  const host::NetNamespace inside(connection.link.pid);
  if (!inside.ok()) return true;
  const auto socket = host::find_tcp_socket(*connection.tcp);
  if (!socket || socket->inode != now.socket) return false;
  const auto peer = host::find_tcp_peer(*socket);
  now.flags = trace::kLinkTcp | (socket->window_closed ? trace::kLinkWindowClosed : 0u);
  now.unread_bytes = peer ? peer->unread_bytes : UINT64_MAX;
  if (peer && connection.peer_inode == 0) connection.peer_inode = peer->inode;
  now.unacked_bytes = socket->unacked_bytes;
  now.tcp_state = socket->state;
  now.retransmits = socket->retransmits;
  now.probes = socket->probes;
  now.sent_bytes = socket->sent_bytes;
  now.received_bytes = socket->received_bytes;
  connection.retransmitted = connection.recorded ? now.retransmitted : socket->retransmitted;
  now.retransmitted = socket->retransmitted;
  now.rtt_us = socket->rtt_us;
  if (socket->has_info) {
    now.last_sent_ns = socket->last_sent_ns;
    now.last_received_ns = socket->last_received_ns;
    now.last_ack_ns = socket->last_ack_ns;
  }
  connection.mark = socket->received_bytes << 1 | (socket->unread_bytes != 0 ? 1 : 0);
  return true;
}

void ServerLinks::look_at_server(Connection& connection) {
  Link& link = connection.link;
  if (link.now.server_pid == 0 && connection.peer_inode != 0) {
    const auto owners = qmp::find_socket_owners({connection.peer_inode}, kOwnerBudget);
    if (!owners.empty()) link.now.server_pid = owners.begin()->second;
    // Not to be searched for again and again.
    if (owners.empty() && ++connection.searches >= kSearches) connection.peer_inode = 0;
    if (link.now.server_pid != 0) link.server = qmp::comm_of(link.now.server_pid);
  }
  if (link.now.server_pid != 0)
    link.now.server_state = static_cast<std::uint8_t>(qmp::state_of(link.now.server_pid));
}

void ServerLinks::judge(Connection& connection, bool moved, std::uint64_t now_ns) {
  Link& link = connection.link;
  trace::StorageLink& now = link.now;
  const GuestWaits guest = ask_guest_(link.vm, link.nodes);
  now.guest_quiet_ns = guest.quiet_ns.value_or(UINT64_MAX);
  now.in_flight = guest.in_flight.value_or(UINT32_MAX);
  const bool tcp = connection.tcp.has_value();
  const bool times = tcp && now.last_sent_ns != UINT64_MAX;
  const bool unread = now.unread_bytes != 0 && now.unread_bytes != UINT64_MAX;
  const bool qemu_reads = (connection.mark & 1) == 0;
  const bool waits =
      qemu_reads && (unread || now.unacked_bytes != 0 || (times && now.last_sent_ns < now.last_received_ns) ||
                     guest.in_flight.value_or(0) != 0);
  now.silent_ns = 0;
  now.sent_again = 0;
  if (!waits) {
    connection.waits_since_ns = 0;
    now.server_state = 0;
    return;
  }
  if (connection.waits_since_ns == 0 || moved) {
    const std::uint64_t age = times ? std::min(now.last_sent_ns, now.last_received_ns) : 0;
    connection.waits_since_ns = now_ns - std::min(now_ns, age);
    connection.runs = 0;
    connection.retransmitted_then = connection.retransmitted;
  }
  now.sent_again = static_cast<std::uint32_t>(now.retransmitted - connection.retransmitted_then);
  // A slow server that takes one request after the other leaves as many bytes unread each time: of a Unix
  // socket nothing else is counted.
  const std::uint64_t wait = now_ns - connection.waits_since_ns;
  now.silent_ns = wait;
  if (wait >= kNoted || !guest.quiet_ns) look_at_server(connection);
  if (tcp || now.server_state == 'T' || now.server_state == 't') return;
  if (guest.quiet_ns) {
    now.silent_ns = std::min(wait, *guest.quiet_ns);
    return;
  }
  const std::uint64_t runs = now.server_pid != 0 ? runs_of(now.server_pid) : 0;
  if (runs == 0 || runs != connection.runs) {
    connection.runs = runs;
    connection.waits_since_ns = now_ns;
    now.silent_ns = 0;
  }
}

void ServerLinks::record(Connection& connection, std::uint64_t now_ns) {
  std::string nodes;
  for (const std::string& node : connection.link.nodes) nodes += (nodes.empty() ? "" : ", ") + node;
  if (nodes.size() > 512) nodes.resize(512);
  recorder_.add(
      trace::make_record(now_ns, connection.link.vm, connection.link.now,
                         trace::join_text({nodes, connection.link.address.driver,
                                           connection.link.address.to_string(), connection.link.server})));
  connection.recorded = true;
}

void ServerLinks::look(std::uint64_t now_ns, std::uint32_t of) {
  if (servers_.empty()) return;
  const bool missing = std::ranges::any_of(servers_, [](const Server& server) { return !server.connected; });
  if (search_ || (missing && now_ns >= searched_ns_ + kSearchPause)) find_connections(now_ns);
  for (auto at = connections_.begin(); at != connections_.end();) {
    Connection& connection = at->second;
    trace::StorageLink& now = connection.link.now;
    now.state = static_cast<std::uint32_t>(trace::StorageLinkState::connected);
    const std::uint64_t mark = connection.mark;
    const bool there = connection.tcp ? look_at_tcp(connection) : look_at_unix(connection);
    if (!there) {
      now.state = static_cast<std::uint32_t>(trace::StorageLinkState::gone);
      now.flags &= ~static_cast<std::uint32_t>(trace::kLinkHangs);
      now.silent_ns = 0;
      record(connection, now_ns);
      at = connections_.erase(at);
      search_ = true;
      continue;
    }
    judge(connection, connection.mark != mark, now_ns);
    now.flags &= ~static_cast<std::uint32_t>(trace::kLinkHangs);
    if (now.silent_ns >= hang_ns_) now.flags |= trace::kLinkHangs;
    const bool waits = now.silent_ns >= kNoted;
    if (!connection.recorded || waits || connection.told || of == kAll || connection.link.vm == of)
      record(connection, now_ns);
    connection.told = waits;
    ++at;
  }
  look_for_absent(now_ns);
}

/// A client that has lost its server and is told to connect again (reconnect-delay) holds the requests.
void ServerLinks::look_for_absent(std::uint64_t now_ns) {
  for (Server& server : servers_) {
    const bool there = std::ranges::any_of(connections_, [&](const auto& entry) {
      return entry.first.first == server.vm && entry.second.link.address == server.address;
    });
    if (there) {
      server.connected = true;
      server.absent_since_ns = 0;
      server.told_absent = false;
      continue;
    }
    if (!server.connected && server.absent_since_ns == 0) continue;  // It was never seen.
    server.connected = false;
    if (server.absent_since_ns == 0) server.absent_since_ns = now_ns;
    const GuestWaits guest = ask_guest_(server.vm, server.nodes);
    Connection none;
    none.link = {server.vm, server.pid, server.nodes, server.address, unknown_link(), ""};
    trace::StorageLink& now = none.link.now;
    now.state = static_cast<std::uint32_t>(trace::StorageLinkState::absent);
    now.flags = server.address.path.empty() ? trace::kLinkTcp : 0u;
    now.guest_quiet_ns = guest.quiet_ns.value_or(UINT64_MAX);
    now.in_flight = guest.in_flight.value_or(UINT32_MAX);
    if (guest.in_flight.value_or(0) != 0)
      now.silent_ns = std::min(now_ns - server.absent_since_ns, guest.quiet_ns.value_or(UINT64_MAX));
    if (now.silent_ns >= hang_ns_) now.flags |= trace::kLinkHangs;
    if (now.silent_ns < kNoted && std::exchange(server.told_absent, true)) continue;
    record(none, now_ns);
  }
}

std::optional<std::uint64_t> ServerLinks::next_hang_ns() const {
  std::optional<std::uint64_t> out;
  for (const auto& entry : connections_) {
    const Connection& connection = entry.second;
    if (connection.waits_since_ns == 0 || (connection.link.now.flags & trace::kLinkHangs) != 0) continue;
    const std::uint64_t at = connection.waits_since_ns + hang_ns_;
    if (!out || at < *out) out = at;
  }
  return out;
}

std::string ServerLinks::silent(std::uint32_t vm) const {
  for (const auto& [key, connection] : connections_)
    if (key.first == vm && connection.link.now.silent_ns >= kNoted)
      return fmt::format("the {} server {} has not answered for {}", connection.link.address.driver,
                         connection.link.address.to_string(),
                         human_duration(static_cast<std::int64_t>(connection.link.now.silent_ns)));
  return {};
}

std::vector<ServerLinks::Link> ServerLinks::links() const {
  std::vector<Link> out;
  for (const auto& entry : connections_) out.push_back(entry.second.link);
  return out;
}

}  // namespace vmwhy::storage
