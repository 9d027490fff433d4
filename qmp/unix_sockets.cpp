// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/unix_sockets.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <string_view>

#include "qmp/proc_qemu.hpp"

namespace vmwhy::qmp {
namespace {

using Clock = std::chrono::steady_clock;

struct Request {
  nlmsghdr header;
  unix_diag_req body;
};

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

std::string bound_name(const rtattr* attribute) {
  const auto* data = static_cast<const char*>(RTA_DATA(attribute));
  std::string name(data, RTA_PAYLOAD(attribute));
  if (!name.empty() && name[0] == '\0') {
    name[0] = '@';
    return name;
  }
  return name.substr(0, name.find('\0'));
}

UnixSocket parse_socket(const nlmsghdr* header) {
  UnixSocket out;
  const auto* message = static_cast<const unix_diag_msg*>(NLMSG_DATA(header));
  out.inode = message->udiag_ino;
  out.listening = message->udiag_state == TCP_LISTEN;
  out.connected = message->udiag_state == TCP_ESTABLISHED;
  auto length = static_cast<int>(header->nlmsg_len - NLMSG_LENGTH(sizeof *message));
  // The attributes follow the fixed part; the kernel's own macro casts constness away.
  auto* attribute = reinterpret_cast<rtattr*>(const_cast<unix_diag_msg*>(message) + 1);
  for (; RTA_OK(attribute, length); attribute = RTA_NEXT(attribute, length)) {
    if (attribute->rta_type == UNIX_DIAG_NAME) out.path = bound_name(attribute);
    if (attribute->rta_type == UNIX_DIAG_VFS && RTA_PAYLOAD(attribute) >= sizeof(unix_diag_vfs))
      out.file_inode = static_cast<const unix_diag_vfs*>(RTA_DATA(attribute))->udiag_vfs_ino;
    if (attribute->rta_type == UNIX_DIAG_PEER && RTA_PAYLOAD(attribute) >= sizeof(std::uint32_t))
      std::memcpy(&out.peer_inode, RTA_DATA(attribute), sizeof out.peer_inode);
    if (attribute->rta_type == UNIX_DIAG_RQLEN && RTA_PAYLOAD(attribute) >= sizeof(unix_diag_rqlen) &&
        !out.listening)
      out.unread_bytes = static_cast<const unix_diag_rqlen*>(RTA_DATA(attribute))->udiag_rqueue;
  }
  return out;
}

// Reads one datagram of answers. @return whether more is to come.
bool read_answers(int fd, bool dump, std::vector<UnixSocket>& out) {
  alignas(nlmsghdr) char buffer[32768];
  const ssize_t got = ::recv(fd, buffer, sizeof buffer, 0);
  if (got < 0 && errno == EINTR) return true;
  if (got <= 0) return false;
  auto left = static_cast<unsigned>(got);
  for (auto* header = reinterpret_cast<nlmsghdr*>(buffer); NLMSG_OK(header, left);
       header = NLMSG_NEXT(header, left)) {
    if (header->nlmsg_type == NLMSG_DONE || header->nlmsg_type == NLMSG_ERROR) return false;
    if (header->nlmsg_type != SOCK_DIAG_BY_FAMILY || header->nlmsg_len < NLMSG_LENGTH(sizeof(unix_diag_msg)))
      continue;
    const auto* message = static_cast<const unix_diag_msg*>(NLMSG_DATA(header));
    if (message->udiag_type == SOCK_STREAM) out.push_back(parse_socket(header));
  }
  return dump;
}

std::vector<UnixSocket> query(std::uint32_t inode) {
  std::vector<UnixSocket> out;
  const bool dump = inode == 0;
  const Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (fd.get() < 0) return out;
  const timeval patience{0, 200'000};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  Request request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | (dump ? NLM_F_DUMP : 0));
  request.body.sdiag_family = AF_UNIX;
  request.body.udiag_states = ~0u;
  request.body.udiag_ino = inode;
  request.body.udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN;
  request.body.udiag_cookie[0] = request.body.udiag_cookie[1] = ~0u;
  if (::send(fd.get(), &request, sizeof request, 0) < 0) return out;
  while (read_answers(fd.get(), dump, out)) {
  }
  return out;
}

std::string read_small(const std::string& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  char buffer[1024];
  const ssize_t got = fd.get() < 0 ? -1 : ::read(fd.get(), buffer, sizeof buffer);
  return got > 0 ? std::string(buffer, static_cast<std::size_t>(got)) : std::string();
}

std::optional<std::uint32_t> socket_inode(int directory, const char* name) {
  char target[64];
  const ssize_t length = ::readlinkat(directory, name, target, sizeof target - 1);
  constexpr std::string_view kPrefix = "socket:[";
  if (length <= static_cast<ssize_t>(kPrefix.size())) return std::nullopt;
  target[length] = '\0';
  if (std::string_view(target).substr(0, kPrefix.size()) != kPrefix) return std::nullopt;
  return static_cast<std::uint32_t>(std::strtoul(target + kPrefix.size(), nullptr, 10));
}

using Dir = std::unique_ptr<DIR, int (*)(DIR*)>;

void scan_process(std::uint32_t pid, const std::string& proc, std::set<std::uint32_t>& wanted,
                  std::map<std::uint32_t, std::uint32_t>& out, Clock::time_point end) {
  const std::string path = proc + "/" + std::to_string(pid) + "/fd";
  const Dir directory(::opendir(path.c_str()), ::closedir);
  if (!directory) return;
  unsigned count = 0;
  while (const dirent* entry = ::readdir(directory.get())) {
    if (++count % 64 == 0 && Clock::now() > end) return;
    const auto inode = socket_inode(::dirfd(directory.get()), entry->d_name);
    if (!inode || wanted.erase(*inode) == 0) continue;
    out[*inode] = pid;
    if (wanted.empty()) return;
  }
}

// The monitor's clients by experience; they are looked at first, so that the time suffices on big hosts.
bool likely_client(const std::string& comm) {
  for (const char* name : {"libvirt", "virtqemud", "virt-launcher", "qmeventd", "pvedaemon", "pvestatd",
                           "incus", "lxd", "python", "qmp", "socat", "nc", "vmwhy", "virsh"})
    if (comm.rfind(name, 0) == 0) return true;
  return false;
}

std::vector<std::uint32_t> pids_by_likelihood(const std::string& proc) {
  std::vector<std::uint32_t> likely;
  std::vector<std::uint32_t> others;
  const Dir directory(::opendir(proc.c_str()), ::closedir);
  if (!directory) return likely;
  while (const dirent* entry = ::readdir(directory.get())) {
    char* end = nullptr;
    const unsigned long pid = std::strtoul(entry->d_name, &end, 10);
    if (pid == 0 || *end != '\0') continue;
    (likely_client(comm_of(pid, proc)) ? likely : others).push_back(static_cast<std::uint32_t>(pid));
  }
  std::sort(likely.begin(), likely.end());
  std::sort(others.begin(), others.end());
  likely.insert(likely.end(), others.begin(), others.end());
  return likely;
}

// Many monitors can fall silent at once; explaining them must not block the one thread that watches them all.
std::chrono::milliseconds take_budget(std::chrono::milliseconds wanted) {
  static thread_local Clock::time_point window;
  static thread_local std::chrono::milliseconds spent{0};
  const auto now = Clock::now();
  if (now - window > std::chrono::seconds(1)) {
    window = now;
    spent = std::chrono::milliseconds(0);
  }
  const auto granted = std::min(wanted, std::chrono::milliseconds(60) - spent);
  spent += std::max(granted, std::chrono::milliseconds(0));
  return granted;
}

std::string describe_process(std::uint32_t pid) {
  const std::string comm = comm_of(pid);
  std::string out = "process " + std::to_string(pid);
  if (comm.empty()) return out;
  out += " (";
  for (const char c : comm) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return out + ")";
}

std::string describe_state(std::uint32_t pid) {
  if (pid == 0) return {};
  const std::string who = describe_process(pid);
  switch (state_of(pid)) {
    case 'T':
      return who + " is stopped by a signal (T)";
    case 't':
      return who + " is stopped by a tracer (t)";
    case 'D':
      return who + " is in an uninterruptible wait (D)";
    case 'Z':
      return who + " has ended (Z)";
    case '\0':
      return "process " + std::to_string(pid) + ", which opened the socket, is not to be seen here";
    default:
      return {};
  }
}

// The same socket goes by many paths (relative, through /proc/PID/root), so its file tells which it is.
std::uint32_t inode_of_file(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? static_cast<std::uint32_t>(status.st_ino) : 0;
}

std::string_view last_component(std::string_view path) {
  return path.substr(path.rfind('/') + 1);
}

std::string describe_holder(const std::vector<std::uint32_t>& peers, std::uint32_t own_pid) {
  std::string text = "another client holds the monitor";
  const auto budget = take_budget(std::chrono::milliseconds(50));
  if (budget.count() <= 0) return text;
  const auto owners = find_socket_owners({peers.begin(), peers.end()}, budget);
  for (const auto& [inode, pid] : owners) {
    if (pid == own_pid) return text + ": this process itself";
    return text + ": " + describe_process(pid);
  }
  return text;
}

}  // namespace

std::vector<UnixSocket> dump_unix_sockets() {
  return query(0);
}

std::optional<UnixSocket> find_unix_socket(std::uint32_t inode) {
  for (UnixSocket& socket : query(inode))
    if (socket.inode == inode) return std::move(socket);
  return std::nullopt;
}

std::map<std::uint32_t, std::uint32_t> find_socket_owners(const std::set<std::uint32_t>& inodes,
                                                          std::chrono::milliseconds budget,
                                                          const std::string& proc) {
  std::map<std::uint32_t, std::uint32_t> out;
  std::set<std::uint32_t> wanted = inodes;
  wanted.erase(0);
  if (wanted.empty()) return out;
  const auto end = Clock::now() + budget;
  for (const std::uint32_t pid : pids_by_likelihood(proc)) {
    if (wanted.empty() || Clock::now() > end) break;
    scan_process(pid, proc, wanted, out, end);
  }
  return out;
}

std::set<std::uint32_t> sockets_of(std::uint32_t pid, const std::string& proc) {
  std::set<std::uint32_t> out;
  const Dir directory(::opendir((proc + "/" + std::to_string(pid) + "/fd").c_str()), ::closedir);
  if (!directory) return out;
  while (const dirent* entry = ::readdir(directory.get()))
    if (const auto inode = socket_inode(::dirfd(directory.get()), entry->d_name)) out.insert(*inode);
  return out;
}

std::map<std::uint32_t, std::string> bound_paths(std::uint32_t pid, const std::string& proc) {
  std::ifstream in(proc + "/" + std::to_string(pid) + "/net/unix");
  std::ostringstream text;
  text << in.rdbuf();
  std::map<std::uint32_t, std::string> out;
  for (const NetUnixEntry& entry : parse_net_unix(text.str()))
    if (entry.connected && entry.inode != 0) out[entry.inode] = entry.path;
  return out;
}

std::string comm_of(std::uint32_t pid, const std::string& proc) {
  std::string comm = read_small(proc + "/" + std::to_string(pid) + "/comm");
  if (!comm.empty() && comm.back() == '\n') comm.pop_back();
  return comm;
}

char state_of(std::uint32_t pid, const std::string& proc) {
  const std::string stat = read_small(proc + "/" + std::to_string(pid) + "/stat");
  const std::size_t end = stat.rfind(')');  // the name before it may hold anything
  return end != std::string::npos && end + 2 < stat.size() ? stat[end + 2] : '\0';
}

Silence explain_silence(int fd, std::uint32_t peer_pid, const std::string& path) {
  struct stat own {};
  if (::fstat(fd, &own) != 0) return {};
  const auto inode = static_cast<std::uint32_t>(own.st_ino);
  const auto socket = find_unix_socket(inode);
  std::string state = describe_state(peer_pid);
  if (socket && socket->peer_inode != 0) {
    // accept(2) was called for us, and the monitor said nothing all the same.
    return {
        "the connection was accepted, so the thread that serves the monitor is stuck, or this is no QMP "
        "socket" +
        (state.empty() ? "" : "; " + state)};
  }
  if (!state.empty()) return {std::move(state)};
  std::vector<std::uint32_t> peers;
  const std::uint32_t file_inode = inode_of_file(path);
  for (const UnixSocket& other : dump_unix_sockets())
    if (other.connected && other.inode != 0 && other.peer_inode != 0 && other.peer_inode != inode &&
        (other.path == path || (file_inode != 0 && other.file_inode == file_inode &&
                                last_component(other.path) == last_component(path))))
      peers.push_back(other.peer_inode);
  if (!peers.empty()) return {describe_holder(peers, static_cast<std::uint32_t>(::getpid())), true};
  if (!socket) return {};
  return {
      "nobody accepted the connection, and no other client is to be seen: QEMU's main loop is stuck, or a "
      "client in another network namespace holds the monitor"};
}

}  // namespace vmwhy::qmp
