// SPDX-License-Identifier: BSD-2-Clause
// The netlink process connector: PROC_EVENT_EXIT of every process of the host.
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cerrno>
#include <cstring>
#include <unordered_map>

#include "host/exit_status.hpp"

namespace vmwhy::host {

namespace asio = boost::asio;

class ProcessConnector::Impl : public std::enable_shared_from_this<ProcessConnector::Impl> {
 public:
  Impl(asio::io_context& io, int fd) : stream_(io, fd) {}

  void wait() {
    stream_.async_wait(asio::posix::stream_descriptor::wait_read,
                       [self = shared_from_this()](const boost::system::error_code& error) {
                         if (error) return;
                         self->drain();
                         self->wait();
                       });
  }

  void close() { stream_.close(); }

  void drain() {
    alignas(nlmsghdr) std::array<char, 8192> buffer;
    while (stream_.is_open()) {
      const ssize_t n = ::recv(stream_.native_handle(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (n <= 0) return;  // ENOBUFS too: what was lost is not known, and status_of() then says nothing.
      take(buffer.data(), static_cast<std::size_t>(n));
    }
  }

  std::unordered_map<std::uint32_t, std::optional<std::int32_t>> remembered;

 private:
  void take(const char* data, std::size_t size) {
    if (size < NLMSG_LENGTH(sizeof(cn_msg) + sizeof(proc_event))) return;
    proc_event event;
    std::memcpy(&event, data + NLMSG_LENGTH(sizeof(cn_msg)), sizeof(event));
    if (event.what != proc_event::PROC_EVENT_EXIT) return;
    const auto& exit = event.event_data.exit;
    // Each thread reports its own end; the process's is the leader's.
    if (exit.process_pid != exit.process_tgid) return;
    const auto found = remembered.find(static_cast<std::uint32_t>(exit.process_tgid));
    if (found != remembered.end()) found->second = static_cast<std::int32_t>(exit.exit_code);
  }

  asio::posix::stream_descriptor stream_;
};

Result<std::unique_ptr<ProcessConnector>> ProcessConnector::open(asio::io_context& io) {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_CONNECTOR));
  if (!fd) return system_failure(errno, "process connector");
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = CN_IDX_PROC;
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    return system_failure(errno, "process connector", "needs CAP_NET_ADMIN: run as root");
  const proc_cn_mcast_op op = PROC_CN_MCAST_LISTEN;
  nlmsghdr header{};
  cn_msg message{};
  header.nlmsg_len = NLMSG_LENGTH(sizeof(message) + sizeof(op));
  header.nlmsg_type = NLMSG_DONE;
  message.id.idx = CN_IDX_PROC;
  message.id.val = CN_VAL_PROC;
  message.len = sizeof(op);
  std::array<char, NLMSG_LENGTH(sizeof(message) + sizeof(op))> request{};
  std::memcpy(request.data(), &header, sizeof(header));
  std::memcpy(request.data() + NLMSG_LENGTH(0), &message, sizeof(message));
  std::memcpy(request.data() + NLMSG_LENGTH(sizeof(message)), &op, sizeof(op));
  if (::send(fd.get(), request.data(), request.size(), 0) < 0)
    return system_failure(errno, "process connector", "needs CAP_NET_ADMIN: run as root");
  auto impl = std::make_shared<Impl>(io, fd.release());
  impl->wait();
  return std::unique_ptr<ProcessConnector>(new ProcessConnector(std::move(impl)));
}

ProcessConnector::ProcessConnector(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
ProcessConnector::~ProcessConnector() {
  impl_->close();
}

std::optional<std::int32_t> ProcessConnector::status_of(std::uint32_t pid) {
  impl_->drain();
  const auto found = impl_->remembered.find(pid);
  return found == impl_->remembered.end() ? std::nullopt : found->second;
}

void ProcessConnector::remember(std::uint32_t pid) {
  impl_->remembered.emplace(pid, std::nullopt);
}
void ProcessConnector::forget(std::uint32_t pid) {
  impl_->remembered.erase(pid);
}

}  // namespace vmwhy::host
