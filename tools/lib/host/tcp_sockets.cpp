// SPDX-License-Identifier: BSD-2-Clause
#include "host/tcp_sockets.hpp"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/unique_fd.hpp"

namespace vmwhy::host {
namespace {

constexpr std::uint32_t kListen = 10, kTimeWait = 6, kNewSynRecv = 12;
/// icsk_pending of the socket, as idiag_timer: what idiag_retrans counts.
constexpr std::uint8_t kTimerRetransmit = 1, kTimerKeepalive = 2, kTimerProbe = 4;

struct Request {
  nlmsghdr header;
  inet_diag_req_v2 body;
};

std::array<std::uint8_t, 16> to_v6(const std::uint8_t* v4) {
  std::array<std::uint8_t, 16> out{};
  out[10] = out[11] = 0xff;
  std::copy_n(v4, 4, out.begin() + 12);
  return out;
}

TcpEnd end_of(bool v6, const std::uint32_t* address, std::uint16_t port) {
  TcpEnd out;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(address);
  if (v6)
    std::copy_n(bytes, 16, out.address.begin());
  else
    out.address = to_v6(bytes);
  out.port = ntohs(port);
  return out;
}

void add_info(TcpSocket& out, const rtattr* attribute) {
  // An older kernel's struct is shorter: what it does not tell stays 0.
  tcp_info info{};
  std::memcpy(&info, RTA_DATA(attribute), std::min<std::size_t>(sizeof info, RTA_PAYLOAD(attribute)));
  constexpr std::uint64_t kMs = 1'000'000;
  out.has_info = true;
  out.sent_bytes = info.tcpi_bytes_sent;
  out.received_bytes = info.tcpi_bytes_received;
  out.retransmitted = info.tcpi_total_retrans;
  out.last_sent_ns = info.tcpi_last_data_sent * kMs;
  out.last_received_ns = info.tcpi_last_data_recv * kMs;
  out.last_ack_ns = info.tcpi_last_ack_recv * kMs;
  out.rtt_us = info.tcpi_rtt;
}

TcpSocket parse_socket(const nlmsghdr* header) {
  const auto* message = static_cast<const inet_diag_msg*>(NLMSG_DATA(header));
  TcpSocket out;
  out.inode = message->idiag_inode;
  out.v6 = message->idiag_family == AF_INET6;
  out.state = message->idiag_state;
  out.local = end_of(out.v6, message->id.idiag_src, message->id.idiag_sport);
  out.remote = end_of(out.v6, message->id.idiag_dst, message->id.idiag_dport);
  out.unread_bytes = message->idiag_rqueue;
  out.unacked_bytes = message->idiag_wqueue;
  if (message->idiag_timer == kTimerRetransmit) out.retransmits = message->idiag_retrans;
  if (message->idiag_timer == kTimerProbe || message->idiag_timer == kTimerKeepalive)
    out.probes = message->idiag_retrans;
  out.window_closed = message->idiag_timer == kTimerProbe;
  auto length = static_cast<int>(header->nlmsg_len - NLMSG_LENGTH(sizeof *message));
  // The attributes follow the fixed part; the kernel's own macro casts constness away.
  auto* attribute = reinterpret_cast<rtattr*>(const_cast<inet_diag_msg*>(message) + 1);
  for (; RTA_OK(attribute, length); attribute = RTA_NEXT(attribute, length))
    if (attribute->rta_type == INET_DIAG_INFO) add_info(out, attribute);
  return out;
}

/// Reads one datagram of answers. @return whether more is to come.
bool read_answers(int fd, bool dump, std::vector<TcpSocket>& out) {
  alignas(nlmsghdr) char buffer[32768];
  const ssize_t got = ::recv(fd, buffer, sizeof buffer, 0);
  if (got < 0 && errno == EINTR) return true;
  if (got <= 0) return false;
  auto left = static_cast<unsigned>(got);
  for (auto* header = reinterpret_cast<nlmsghdr*>(buffer); NLMSG_OK(header, left);
       header = NLMSG_NEXT(header, left)) {
    if (header->nlmsg_type == NLMSG_DONE || header->nlmsg_type == NLMSG_ERROR) return false;
    if (header->nlmsg_type == SOCK_DIAG_BY_FAMILY && header->nlmsg_len >= NLMSG_LENGTH(sizeof(inet_diag_msg)))
      out.push_back(parse_socket(header));
  }
  return dump;
}

/// @param one  Null: all.
std::vector<TcpSocket> query(int family, const inet_diag_sockid* one) {
  std::vector<TcpSocket> out;
  const UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!fd) return out;
  const timeval patience{0, 200'000};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  Request request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | (one == nullptr ? NLM_F_DUMP : 0));
  request.body.sdiag_family = static_cast<std::uint8_t>(family);
  request.body.sdiag_protocol = IPPROTO_TCP;
  request.body.idiag_ext = 1u << (INET_DIAG_INFO - 1);
  request.body.idiag_states = ~(1u << kListen | 1u << kTimeWait | 1u << kNewSynRecv);
  if (one != nullptr) request.body.id = *one;
  if (::send(fd.get(), &request, sizeof request, 0) < 0) return out;
  while (read_answers(fd.get(), one == nullptr, out)) {
  }
  return out;
}

std::optional<TcpSocket> find(bool v6, const TcpEnd& local, const TcpEnd& remote) {
  inet_diag_sockid id{};
  id.idiag_sport = htons(local.port);
  id.idiag_dport = htons(remote.port);
  std::copy_n(local.address.begin() + (v6 ? 0 : 12), v6 ? 16 : 4,
              reinterpret_cast<std::uint8_t*>(id.idiag_src));
  std::copy_n(remote.address.begin() + (v6 ? 0 : 12), v6 ? 16 : 4,
              reinterpret_cast<std::uint8_t*>(id.idiag_dst));
  id.idiag_cookie[0] = id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
  for (const TcpSocket& socket : query(v6 ? AF_INET6 : AF_INET, &id))
    if (socket.local == local && socket.remote == remote) return socket;
  return std::nullopt;
}

}  // namespace

std::vector<TcpSocket> dump_tcp_sockets() {
  std::vector<TcpSocket> out = query(AF_INET, nullptr);
  std::ranges::move(query(AF_INET6, nullptr), std::back_inserter(out));
  return out;
}

std::optional<TcpSocket> find_tcp_socket(const TcpSocket& known) {
  return find(known.v6, known.local, known.remote);
}

std::optional<TcpSocket> find_tcp_peer(const TcpSocket& known) {
  return find(known.v6, known.remote, known.local);
}

std::optional<std::array<std::uint8_t, 16>> parse_ip(const std::string& text) {
  std::array<std::uint8_t, 16> out{};
  if (::inet_pton(AF_INET6, text.c_str(), out.data()) == 1) return out;
  std::uint8_t v4[4];
  if (::inet_pton(AF_INET, text.c_str(), v4) != 1) return std::nullopt;
  return to_v6(v4);
}

}  // namespace vmwhy::host
