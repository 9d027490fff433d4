// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/proc_qemu.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <sstream>
#include <string_view>

namespace vmwhy::qmp {
namespace {

using Dir = std::unique_ptr<DIR, int (*)(DIR*)>;

constexpr std::size_t kMaxCommandLine = 2u << 20;
constexpr std::size_t kMaxNetUnix = 64u << 20;
constexpr std::size_t kMaxFds = 65536;

std::string read_file(const std::string& path, std::size_t limit) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  std::string out;
  if (fd < 0) return out;
  char buffer[16384];
  ssize_t got = 0;
  while (out.size() < limit && (got = ::read(fd, buffer, sizeof buffer)) > 0)
    out.append(buffer, static_cast<std::size_t>(got));
  ::close(fd);
  return out;
}

std::string read_link(const std::string& path) {
  char target[4096];
  const ssize_t length = ::readlink(path.c_str(), target, sizeof target);
  return length > 0 ? std::string(target, static_cast<std::size_t>(length)) : std::string();
}

std::string process_folder(const std::string& proc, std::uint32_t pid) {
  return proc + "/" + std::to_string(pid);
}

std::string_view without_deleted(std::string_view path) {
  constexpr std::string_view kDeleted = " (deleted)";
  return path.ends_with(kDeleted) ? path.substr(0, path.size() - kDeleted.size()) : path;
}

bool is_qemu_binary(std::string_view path) {
  path = without_deleted(path);
  const std::string_view name = path.substr(path.rfind('/') + 1);
  return name.find("qemu-system-") != std::string_view::npos || name == "qemu-kvm" || name == "qemu-system" ||
         name == "kvm";
}

bool is_qemu_comm(std::string_view comm) {
  return comm.starts_with("qemu-system-") || comm == "qemu-kvm" || comm == "kvm";
}

// Field 22 of /proc/PID/stat, in clock ticks since boot; the name in field 2 may hold blanks and brackets.
std::uint64_t start_of(const std::string& stat) {
  const std::size_t end = stat.rfind(')');
  if (end == std::string::npos) return 0;
  std::istringstream fields(stat.substr(end + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i)
    if (!(fields >> field)) return 0;
  const auto hz = static_cast<std::uint64_t>(std::max(1L, ::sysconf(_SC_CLK_TCK)));
  return std::strtoull(field.c_str(), nullptr, 10) * (1'000'000'000u / hz);
}

std::int32_t vcpu_of(std::string_view comm) {
  if (!comm.starts_with("CPU ")) return -1;
  std::int32_t number = -1;
  const auto [end, error] = std::from_chars(comm.data() + 4, comm.data() + comm.size(), number);
  return error == std::errc() && end != comm.data() + comm.size() && *end == '/' ? number : -1;
}

std::vector<QemuThread> read_threads(const std::string& folder) {
  std::vector<QemuThread> out;
  const Dir directory(::opendir((folder + "/task").c_str()), ::closedir);
  if (!directory) return out;
  while (const dirent* entry = ::readdir(directory.get())) {
    char* end = nullptr;
    const unsigned long tid = std::strtoul(entry->d_name, &end, 10);
    if (tid == 0 || *end != '\0') continue;
    QemuThread thread;
    thread.tid = static_cast<std::uint32_t>(tid);
    thread.comm = read_file(folder + "/task/" + entry->d_name + "/comm", 64);
    if (thread.comm.ends_with('\n')) thread.comm.pop_back();
    thread.vcpu = vcpu_of(thread.comm);
    out.push_back(std::move(thread));
  }
  std::sort(out.begin(), out.end(), [](const QemuThread& a, const QemuThread& b) { return a.tid < b.tid; });
  return out;
}

struct Fds {
  bool readable = false;
  bool kvm = false;
  std::set<std::uint32_t> sockets;
  std::map<int, std::uint32_t> socket_by_fd;
};

Fds read_fds(const std::string& folder) {
  Fds out;
  const Dir directory(::opendir((folder + "/fd").c_str()), ::closedir);
  if (!directory) return out;
  out.readable = true;
  std::size_t count = 0;
  while (const dirent* entry = ::readdir(directory.get())) {
    if (++count > kMaxFds) break;
    const std::string target = read_link(folder + "/fd/" + entry->d_name);
    if (target == "anon_inode:kvm-vm") out.kvm = true;
    if (!target.starts_with("socket:[")) continue;
    const auto inode = static_cast<std::uint32_t>(std::strtoul(target.c_str() + 8, nullptr, 10));
    out.sockets.insert(inode);
    out.socket_by_fd[std::atoi(entry->d_name)] = inode;
  }
  return out;
}

std::vector<std::string> split_nul(const std::string& text) {
  std::vector<std::string> out;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\0', begin), text.size());
    out.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

bool same_namespace(const std::string& proc, std::uint32_t pid, const char* kind) {
  const std::string theirs = read_link(process_folder(proc, pid) + "/ns/" + kind);
  const std::string ours = read_link(proc + "/self/ns/" + kind);
  return theirs.empty() || ours.empty() || theirs == ours;
}

std::string regular_file_of(const std::string& link) {
  struct stat status {};
  if (::stat(link.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return {};
  return read_link(link);
}

bool exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

class Inspector {
 public:
  Inspector(const std::string& proc, const ProcBasics& basics, NetUnixCache& cache, ProcFindings& findings)
      : proc_(proc),
        basics_(basics),
        folder_(process_folder(proc, basics.pid)),
        cache_(cache),
        findings_(findings) {}

  void run() {
    quick_part();
    // From here on the process's mmap lock is needed: this is what may hang.
    const std::string text = read_file(folder_ + "/cmdline", kMaxCommandLine);
    if (text.empty()) return;
    slow_part(parse_command_line(split_nul(text)));
  }

 private:
  void quick_part();
  void slow_part(const CommandLine& command_line);
  void add_monitor(const MonitorEndpoint& endpoint, QemuProcess& process,
                   std::vector<std::vector<std::uint32_t>>& accepted);
  std::string reachable(const std::string& path) const;
  std::string absolute(const std::string& path) const;

  const std::string& proc_;
  const ProcBasics& basics_;
  std::string folder_;
  NetUnixCache& cache_;
  ProcFindings& findings_;
  Fds fds_;
  NetUnixCache::Table unix_;
  std::string cgroup_;
  bool own_mounts_ = true;
  bool own_pids_ = true;
};

void Inspector::quick_part() {
  fds_ = read_fds(folder_);
  cgroup_ = read_file(folder_ + "/cgroup", 65536);
  own_mounts_ = same_namespace(proc_, basics_.pid, "mnt");
  own_pids_ = same_namespace(proc_, basics_.pid, "pid");
  unix_ = cache_.get(proc_, basics_.pid);
  const std::vector<QemuThread> threads = read_threads(folder_);
  std::string detail;
  const Owner owner = tell_owner({}, cgroup_, !own_pids_, false, detail);

  std::unique_lock lock(findings_.mutex);
  QemuProcess& process = findings_.process;
  process.threads = threads;
  process.owner = owner;
  process.owner_detail = detail;
  if (fds_.kvm) process.accelerator = "kvm";
  findings_.own_network = same_namespace(proc_, basics_.pid, "net");
  // Without the command line, a listening socket whose name says so is most likely a QMP monitor.
  for (const NetUnixEntry& entry : *unix_) {
    if (!entry.listening || fds_.sockets.count(entry.inode) == 0) continue;
    if (entry.path.find("qmp") == std::string::npos && !entry.path.ends_with("/monitor.sock")) continue;
    add_monitor({entry.path, {}, {}, -1}, process, findings_.accepted);
  }
  lock.unlock();
  const std::string log = regular_file_of(folder_ + "/fd/2");  // its file system may hang
  lock.lock();
  process.log_file = log;
}

std::string Inspector::absolute(const std::string& path) const {
  if (path.starts_with("/") || path.starts_with("@")) return path;
  const std::string folder = read_link(folder_ + "/cwd");
  return folder.empty() ? path : folder + "/" + path;
}

std::string Inspector::reachable(const std::string& path) const {
  if (path.starts_with("@") || own_mounts_) return path;
  return folder_ + "/root" + path;
}

void Inspector::add_monitor(const MonitorEndpoint& endpoint, QemuProcess& process,
                            std::vector<std::vector<std::uint32_t>>& accepted) {
  MonitorSocket monitor;
  std::vector<std::uint32_t> inodes;
  std::string bound = endpoint.path;
  if (endpoint.fd >= 0) {
    const auto inode = fds_.socket_by_fd.find(endpoint.fd);
    for (const NetUnixEntry& entry : *unix_)
      if (inode != fds_.socket_by_fd.end() && entry.inode == inode->second) bound = entry.path;
  }
  if (!bound.empty()) {
    monitor.address = absolute(bound);
    monitor.folder_unknown = !monitor.address.starts_with("/") && !monitor.address.starts_with("@");
    if (!monitor.folder_unknown) monitor.reachable_path = reachable(monitor.address);
    for (const NetUnixEntry& entry : *unix_) {
      if (!entry.connected || entry.inode == 0 || entry.path != bound) continue;
      // The other end of a connection has no name of its own, but another QEMU may have bound the same
      // relative path.
      if (!fds_.readable || fds_.sockets.count(entry.inode) != 0) inodes.push_back(entry.inode);
    }
  } else if (!endpoint.port.empty()) {
    const std::string host =
        endpoint.host.empty() || endpoint.host == "0.0.0.0" ? "127.0.0.1" : endpoint.host;
    monitor.address =
        "tcp:" + (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" + endpoint.port;
  } else {
    return;
  }
  monitor.held = !inodes.empty();
  process.monitors.push_back(std::move(monitor));
  accepted.push_back(std::move(inodes));
}

void Inspector::slow_part(const CommandLine& line) {
  const bool libvirt =
      std::any_of(line.monitors.begin(), line.monitors.end(), [](const MonitorEndpoint& endpoint) {
        return endpoint.path.find("/lib/libvirt/qemu/") != std::string::npos;
      });
  QemuProcess found;
  std::vector<std::vector<std::uint32_t>> accepted;
  for (const MonitorEndpoint& endpoint : line.monitors) add_monitor(endpoint, found, accepted);
  const bool libvirt_socket =
      libvirt || std::any_of(found.monitors.begin(), found.monitors.end(), [](const MonitorSocket& monitor) {
        return monitor.address.find("/lib/libvirt/qemu/") != std::string::npos ||
               monitor.address.find("/libvirt/qemu/") != std::string::npos;
      });
  found.owner = tell_owner(line, cgroup_, !own_pids_, libvirt_socket, found.owner_detail);
  std::string log;
  if (found.owner == Owner::libvirt && !line.name.empty() && line.name.find('/') == std::string::npos) {
    log = "/var/log/libvirt/qemu/" + line.name + ".log";
    if (!exists(log)) log.clear();
  }
  std::unique_lock lock(findings_.mutex);
  QemuProcess& process = findings_.process;
  process.name = line.name;
  process.uuid = line.uuid;
  process.machine = line.machine;
  process.disks = line.disks;
  process.has_secrets = line.has_secrets;
  process.owner = found.owner;
  process.owner_detail = found.owner_detail;
  process.monitors = std::move(found.monitors);
  findings_.accepted = std::move(accepted);
  if (process.log_file.empty()) process.log_file = log;
  if (process.accelerator.empty()) {
    // What is not said defaults to tcg, except for binaries named after kvm. Of a list ("kvm:tcg") the
    // file descriptors and thread names tell which one it became.
    const bool kvm_binary =
        without_deleted(basics_.executable).ends_with("kvm") || basics_.comm.ends_with("kvm");
    process.accelerator = !line.accelerator.empty() ? line.accelerator : kvm_binary ? "kvm" : "tcg";
    for (const QemuThread& thread : process.threads)
      if (thread.comm.ends_with("/TCG")) process.accelerator = "tcg";
  }
  process.unreadable = false;
  const std::vector<MonitorSocket> monitors = process.monitors;
  lock.unlock();
  // Last: the file system that holds a socket may hang, and all else is known by now.
  for (std::size_t i = 0; i < monitors.size(); ++i) {
    struct stat fact {};
    if (!monitors[i].reachable_path.starts_with('/') ||
        ::stat(monitors[i].reachable_path.c_str(), &fact) != 0)
      continue;
    lock.lock();
    process.monitors[i].device = fact.st_dev;
    process.monitors[i].inode = fact.st_ino;
    lock.unlock();
  }
}

}  // namespace

// The identifier in a path of the cgroup file: "docker-<id>.scope", "/docker/<id>", "libpod-<id>.scope".
std::string container_id(const std::string& cgroup) {
  for (const std::string_view mark :
       {"docker-", "libpod-", "crio-", "cri-containerd-", "/docker/", "/lxc/", "/lxc.payload."}) {
    const std::size_t at = cgroup.find(mark);
    if (at == std::string::npos) continue;
    const std::size_t begin = at + mark.size();
    const std::size_t end = cgroup.find_first_of("/.\n", begin);
    return cgroup.substr(begin, end == std::string::npos ? end : end - begin);
  }
  return {};
}

std::optional<ProcBasics> read_basics(const std::string& proc, std::uint32_t pid) {
  const std::string folder = process_folder(proc, pid);
  const std::string stat_text = read_file(folder + "/stat", 4096);
  if (stat_text.empty()) return std::nullopt;
  ProcBasics out;
  out.pid = pid;
  out.start_ns = start_of(stat_text);
  const std::size_t begin = stat_text.find('(');
  const std::size_t end = stat_text.rfind(')');
  if (begin != std::string::npos && end != std::string::npos && end > begin)
    out.comm = stat_text.substr(begin + 1, end - begin - 1);
  struct stat status {};
  if (::stat(folder.c_str(), &status) == 0) out.uid = status.st_uid;
  out.executable = read_link(folder + "/exe");
  if (end != std::string::npos && end + 2 < stat_text.size() && stat_text[end + 2] == 'Z') return out;
  out.is_qemu = out.executable.empty() ? is_qemu_comm(out.comm) : is_qemu_binary(out.executable);
  return out;
}

std::vector<std::uint32_t> list_pids(const std::string& proc) {
  std::vector<std::uint32_t> out;
  const Dir directory(::opendir(proc.c_str()), ::closedir);
  if (!directory) return out;
  while (const dirent* entry = ::readdir(directory.get())) {
    char* end = nullptr;
    const unsigned long pid = std::strtoul(entry->d_name, &end, 10);
    if (pid != 0 && *end == '\0') out.push_back(static_cast<std::uint32_t>(pid));
  }
  std::sort(out.begin(), out.end());
  return out;
}

// "Num RefCount Protocol Flags Type St Inode Path"; the path may hold blanks, or be missing.
std::vector<NetUnixEntry> parse_net_unix(const std::string& text) {
  std::vector<NetUnixEntry> out;
  std::istringstream lines(text);
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    std::string number, references, protocol, flags, type, state;
    NetUnixEntry entry;
    if (!(fields >> number >> references >> protocol >> flags >> type >> state >> entry.inode)) continue;
    fields.get();
    std::getline(fields, entry.path);
    if (entry.path.empty() || type != "0001") continue;
    entry.listening = (std::strtoul(flags.c_str(), nullptr, 16) & 0x10000u) != 0;
    entry.connected = state == "03";
    out.push_back(std::move(entry));
  }
  return out;
}

NetUnixCache::Table NetUnixCache::get(const std::string& proc, std::uint32_t pid) {
  const std::string folder = process_folder(proc, pid);
  std::string key = read_link(folder + "/ns/net");
  if (key.empty()) key = folder;
  const std::lock_guard lock(mutex_);
  Table& table = tables_[key];
  if (!table)
    table = std::make_shared<const std::vector<NetUnixEntry>>(
        parse_net_unix(read_file(folder + "/net/unix", kMaxNetUnix)));
  return table;
}

Owner tell_owner(const CommandLine& command_line, const std::string& cgroup, bool other_pid_namespace,
                 bool looks_libvirt, std::string& detail) {
  const auto in_cgroup = [&](const char* mark) { return cgroup.find(mark) != std::string::npos; };
  if (in_cgroup("kubepods")) {
    const bool named = command_line.name.find('_') != std::string::npos;
    detail = named ? command_line.name : container_id(cgroup);
    return named ? Owner::kubevirt : Owner::container;
  }
  const bool proxmox_socket = std::any_of(
      command_line.monitors.begin(), command_line.monitors.end(), [](const MonitorEndpoint& endpoint) {
        return endpoint.path.find("/run/qemu-server/") != std::string::npos;
      });
  if (proxmox_socket || (!command_line.vmid.empty() && in_cgroup("qemu.slice"))) {
    detail = command_line.vmid;
    return Owner::proxmox;
  }
  detail = container_id(cgroup);
  if (!detail.empty() || other_pid_namespace) return Owner::container;
  if (looks_libvirt || in_cgroup("libvirt-qemu") || in_cgroup("machine-qemu")) return Owner::libvirt;
  return Owner::plain;
}

void inspect_process(const std::string& proc, const ProcBasics& basics, NetUnixCache& cache,
                     ProcFindings& findings) {
  Inspector(proc, basics, cache, findings).run();
}

}  // namespace vmwhy::qmp
