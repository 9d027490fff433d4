// SPDX-License-Identifier: BSD-2-Clause
#include "storage_server.hpp"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <stdexcept>

#include "core/unique_fd.hpp"
#include "wait.hpp"

namespace vmwhy::test {
namespace {

constexpr const char* kTarget = "iqn.2026-01.test.vmwhy:disk";
/// Names the socket of tgtd and tgtadm, so that no other tgtd of this machine is spoken to.
constexpr const char* kControl = "TGT_IPC_SOCKET";

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in out{};
  out.sin_family = AF_INET;
  out.sin_port = htons(port);
  out.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return out;
}

/// Nobody has it now; the kernel does not give it out again soon.
std::string free_port() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof address;
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0)
    throw std::runtime_error("no port of 127.0.0.1 is free");
  return std::to_string(ntohs(address.sin_port));
}

bool takes_connections(const std::string& port) {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(static_cast<std::uint16_t>(std::stoi(port)));
  return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

void wait_until_it_listens(ChildProcess& server, const std::function<bool()>& listens) {
  if (!wait_until([&] { return listens() || !server.running(); }) || !server.running() || !listens())
    throw std::runtime_error("the storage server did not start: " + server.err());
}

std::vector<std::string> nbdkit_line(const std::string& socket, const std::vector<std::string>& filters,
                                     const std::vector<std::string>& settings) {
  std::vector<std::string> args{"nbdkit", "--foreground", "--exit-with-parent"};
  if (socket.front() == '/')
    args.insert(args.end(), {"--unix", socket});
  else
    args.insert(args.end(), {"--ipaddr", "127.0.0.1", "--port", socket});
  for (const auto& filter : filters) args.push_back("--filter=" + filter);
  args.insert(args.end(), {"memory", "64M"});
  args.insert(args.end(), settings.begin(), settings.end());
  return args;
}

std::string nbd_address(const std::string& socket) {
  return socket.front() == '/' ? socket : "127.0.0.1:" + socket;
}

std::vector<std::string> remote_disk(const std::string& node, const std::string& device) {
  return {"-blockdev", node + ",node-name=file0", "-blockdev", "driver=raw,node-name=disk0,file=file0",
          "-device",   device + ",drive=disk0"};
}

}  // namespace

NbdServer::NbdServer(std::string socket, const std::vector<std::string>& filters,
                     const std::vector<std::string>& settings)
    : StorageServer(nbd_address(socket), {.args = nbdkit_line(socket, filters, settings)}),
      socket_(std::move(socket)) {
  wait_until_it_listens(process(), [&] {
    return socket_.front() == '/' ? ::access(socket_.c_str(), F_OK) == 0 : takes_connections(socket_);
  });
}

NbdServer::NbdServer(const TempDir& dir, const std::vector<std::string>& filters,
                     const std::vector<std::string>& settings)
    : NbdServer(dir / "nbd.sock", filters, settings) {}

NbdServer::NbdServer(const std::vector<std::string>& filters, const std::vector<std::string>& settings)
    : NbdServer(free_port(), filters, settings) {}

std::vector<std::string> nbd_disk(const std::string& socket, const std::string& options,
                                  const std::string& device) {
  const std::string server = socket.front() == '/'
                                 ? "server.type=unix,server.path=" + socket
                                 : "server.type=inet,server.host=127.0.0.1,server.port=" + socket;
  return remote_disk("driver=nbd," + server + (options.empty() ? "" : "," + options), device);
}

IscsiTarget::IscsiTarget(const TempDir& dir, const std::string& file)
    : IscsiTarget(dir / "tgtd", file, "127.0.0.1:" + free_port()) {}

IscsiTarget::IscsiTarget(const std::string& control, const std::string& file, const std::string& address)
    : StorageServer(address, {.args = {"tgtd", "--foreground", "--iscsi", "portal=" + address},
                              .environment = {{kControl, control}}}),
      control_(control) {
  wait_until_it_listens(process(), [&] {
    return ::access((control + ".0").c_str(), F_OK) == 0 &&
           takes_connections(address.substr(address.find(':') + 1));
  });
  administer("target", {"--op", "new", "--targetname", kTarget});
  administer("logicalunit", {"--op", "new", "--lun", "1", "--backing-store", file});
  administer("target", {"--op", "bind", "--initiator-address", "ALL"});
}

void IscsiTarget::administer(const std::string& mode, const std::vector<std::string>& operation) const {
  std::vector<std::string> args{
      "env", kControl + ("=" + control_), "tgtadm", "--lld", "iscsi", "--tid", "1", "--mode", mode};
  args.insert(args.end(), operation.begin(), operation.end());
  const Output output = run_program(std::move(args));
  if (output.status.code != 0) throw std::runtime_error("tgtadm: " + output.err);
}

std::string IscsiTarget::url() const {
  return "iscsi://" + address() + "/" + kTarget + "/1";
}

std::vector<std::string> iscsi_disk(const IscsiTarget& target, const std::string& device) {
  return remote_disk(
      "driver=iscsi,transport=tcp,lun=1,target=" + std::string(kTarget) + ",portal=" + target.address(),
      device);
}

}  // namespace vmwhy::test
