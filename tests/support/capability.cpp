// SPDX-License-Identifier: BSD-2-Clause
#include "capability.hpp"
#include "libvirt.hpp"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/kvm.h>
#include <linux/netlink.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iostream>
#include <map>
#include <mutex>
#include <system_error>

#include "bpf/load/environment.hpp"
#include "bpf/load/qemu_calls.hpp"
#include "bpf/load/qmp_tap.hpp"
#include "bpf/load/uprobes.hpp"
#include "cgroup.hpp"
#include "child_process.hpp"
#include "core/unique_fd.hpp"
#include "host/tcp_sockets.hpp"
#include "loop_device.hpp"
#include "mount.hpp"
#include "pid_again.hpp"
#include "qmp/unix_sockets.hpp"
#include "storage_server.hpp"
#include "sym/executable.hpp"
#include "temp_dir.hpp"

namespace vmwhy::test {

namespace {

std::string error_of(const std::string& what) {
  return what + ": " + std::strerror(errno);
}

std::string probe_root() {
  return ::geteuid() == 0 ? "" : "the effective user is " + std::to_string(::geteuid());
}

// A user without rights can be tried: we may become one, and he can read where we are.
std::string probe_unprivileged() {
  const Output output =
      run_program({"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "ls", "-l", "."});
  return output.status.code == 0 ? "" : output.err.substr(0, output.err.find('\n'));
}

std::string probe_kvm() {
  const UniqueFd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!kvm) return error_of("/dev/kvm");
  const UniqueFd vm(::ioctl(kvm.get(), KVM_CREATE_VM, 0));
  return vm ? "" : error_of("KVM_CREATE_VM");
}

std::string probe_loop() {
  const TempDir dir;
  const LoopDevice loop(dir.sparse("image", 1 << 20));
  const UniqueFd fd(::open(loop.path().c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return error_of(loop.path());
  char block[512];
  return ::pread(fd.get(), block, sizeof block, 0) == sizeof block ? "" : error_of("read " + loop.path());
}

std::string probe_mount() {
  const TempDir dir;
  const Mount tmpfs("tmpfs", dir.path() / "m", "tmpfs", "size=64k");
  const UniqueFd fd(::open((tmpfs / "file").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  return fd ? "" : error_of("a file on tmpfs");
}

std::string probe_overlay() {
  const TempDir dir;
  const Mount tmpfs("tmpfs", dir.path() / "m", "tmpfs", "size=64k");
  const Overlay overlay(tmpfs.path(), dir.path() / "lower", dir.path() / "merged");
  return "";
}

std::string probe_ext4() {
  const TempDir dir;
  const std::string image = dir.sparse("image", 4 << 20);
  const Output made = run_program({"mkfs.ext4", "-q", image});
  if (made.status.code != 0) return "mkfs.ext4 failed: " + made.err.substr(0, made.err.find('\n'));
  const LoopDevice loop(image);
  const Mount ext4(loop.path(), dir.path() / "m", "ext4");
  return "";
}

std::string probe_xfs() {
  const TempDir dir;
  const std::string image = dir.sparse("image", 320 << 20);
  const Output made = run_program({"mkfs.xfs", "-q", image});
  if (made.status.code != 0) return "mkfs.xfs failed: " + made.err.substr(0, made.err.find('\n'));
  const LoopDevice loop(image);
  const Mount xfs(loop.path(), dir.path() / "m", "xfs");
  return "";
}

std::string probe_fuse() {
  const UniqueFd fuse(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!fuse) return error_of("/dev/fuse");
  const TempDir dir;
  const Mount mount("vmwhy", dir.path() / "m", "fuse",
                    "fd=" + std::to_string(fuse.get()) + ",rootmode=40000,user_id=0,group_id=0");
  return "";
}

std::string probe_kmsg() {
  const UniqueFd fd(::open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!fd) return error_of("/dev/kmsg");
  char line[8192];
  // EPIPE: records were overwritten; EAGAIN: the log is empty. Both mean that it can be read.
  if (::read(fd.get(), line, sizeof line) > 0 || errno == EAGAIN || errno == EPIPE) return "";
  return error_of("read /dev/kmsg");
}

std::string probe_kmsg_write() {
  const UniqueFd fd(::open("/dev/kmsg", O_WRONLY | O_CLOEXEC));
  if (!fd) return error_of("/dev/kmsg");
  constexpr std::string_view kLine = "<7>vmwhy tests: can this log be written?\n";
  return ::write(fd.get(), kLine.data(), kLine.size()) > 0 ? "" : error_of("write /dev/kmsg");
}

std::string probe_freezer(Freezer::Version version) {
  // The group outlives the child: a frozen process is thawed before it is killed.
  ChildProcess child({"sleep", "1000"});
  const Freezer group(version);
  group.add(child.pid());
  group.freeze();
  group.thaw();
  return "";
}

// The number of a child that was reaped, for another.
std::string probe_pid_again() {
  const pid_t first = ::fork();
  if (first == 0) ::_exit(0);
  if (first < 0 || ::waitpid(first, nullptr, 0) != first) return error_of("fork");
  const pid_t second = fork_as(first);
  if (second == 0) ::_exit(0);
  if (second < 0) return error_of("clone3 with set_tid");
  return ::waitpid(second, nullptr, 0) == second && second == first ? "" : "another number was given";
}

std::string probe_cpu_quota() {
  ChildProcess child({"sleep", "1000"});
  const CpuQuota group(50'000, 100'000);
  group.add(child.pid());
  return "";
}

// A child that wants more memory than its group may have is killed.
std::string probe_memory_limit() {
  const MemoryLimit group(16u << 20);
  ChildProcess child({.args = {"sh", "-c", "read line; x=$(head -c 64000000 /dev/zero | tr '\\0' x); exit 0"},
                      .stdin_pipe = true});
  group.add(child.pid());
  child.write("go\n");
  const auto status = child.wait();
  return status && status->signal == SIGKILL ? "" : "a child that took more than its limit was not killed";
}

// A child of ours traces another child, as a debugger would trace a QEMU it did not start.
std::string probe_ptrace() {
  const ChildProcess target({"sleep", "1000"});
  const pid_t tracer = ::fork();
  if (tracer < 0) return error_of("fork");
  if (tracer == 0) {
    int status = 0;
    if (::ptrace(PTRACE_SEIZE, target.pid(), nullptr, nullptr) != 0) ::_exit(errno);
    if (::ptrace(PTRACE_INTERRUPT, target.pid(), nullptr, nullptr) != 0) ::_exit(errno);
    ::_exit(::waitpid(target.pid(), &status, __WALL) == target.pid() && WIFSTOPPED(status) ? 0 : errno);
  }
  int status = 0;
  while (::waitpid(tracer, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
  errno = WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
  return error_of("PTRACE_SEIZE of a sibling");
}

std::string probe_program(std::vector<std::string> args) {
  const std::string name = args.front();
  const Output output = run_program(std::move(args), deadline_in(30s));
  if (output.status.code == 0) return "";
  return name + (output.status.code == 127 ? " is not installed" : " does not run");
}

// The process connector: does the kernel tell of a fork?
std::string probe_proc_events() {
  const UniqueFd fd(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_CONNECTOR));
  if (!fd) return error_of("NETLINK_CONNECTOR");
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = CN_IDX_PROC;
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return error_of("bind to the process connector");
  alignas(NLMSG_ALIGNTO) char message[NLMSG_SPACE(sizeof(cn_msg) + sizeof(proc_cn_mcast_op))] = {};
  auto* header = reinterpret_cast<nlmsghdr*>(message);
  header->nlmsg_len = NLMSG_LENGTH(sizeof(cn_msg) + sizeof(proc_cn_mcast_op));
  header->nlmsg_type = NLMSG_DONE;
  auto* connector = static_cast<cn_msg*>(NLMSG_DATA(header));
  connector->id = {CN_IDX_PROC, CN_VAL_PROC};
  connector->len = sizeof(proc_cn_mcast_op);
  const proc_cn_mcast_op listen = PROC_CN_MCAST_LISTEN;
  std::memcpy(connector->data, &listen, sizeof listen);
  if (::send(fd.get(), message, header->nlmsg_len, 0) < 0) return error_of("listen to the process connector");
  run_program({"true"});
  const TimePoint deadline = deadline_in(3s);
  for (pollfd wait{fd.get(), POLLIN, 0}; ::poll(&wait, 1, left_ms(deadline)) > 0;) {
    alignas(NLMSG_ALIGNTO) char buffer[4096];
    const ssize_t got = ::recv(fd.get(), buffer, sizeof buffer, 0);
    if (got < static_cast<ssize_t>(NLMSG_LENGTH(sizeof(cn_msg) + sizeof(proc_event)))) continue;
    const auto* data = static_cast<cn_msg*>(NLMSG_DATA(reinterpret_cast<nlmsghdr*>(buffer)));
    proc_event event;
    std::memcpy(&event, data->data, sizeof event);
    if (event.what == proc_event::PROC_EVENT_EXIT) return "";
  }
  return "no event came for a process that ended";
}

std::string probe_userfaultfd() {
  const UniqueFd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!fd) return error_of("userfaultfd");
  uffdio_api api{};
  api.api = UFFD_API;
  return ::ioctl(fd.get(), UFFDIO_API, &api) == 0 ? "" : error_of("UFFDIO_API");
}

std::string probe_bpf() {
  // r0 = 0; exit: with BTF of the kernel it is all that a probe needs to be loaded.
  const bpf_insn program[] = {
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0},
      {.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0}};
  bpf_attr attr{};
  attr.prog_type = BPF_PROG_TYPE_RAW_TRACEPOINT;
  attr.insns = reinterpret_cast<std::uint64_t>(program);
  attr.insn_cnt = 2;
  attr.license = reinterpret_cast<std::uint64_t>("GPL");
  const UniqueFd fd(static_cast<int>(::syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr)));
  if (!fd) return error_of("BPF_PROG_LOAD");
  return ::access("/sys/kernel/btf/vmlinux", R_OK) == 0 ? "" : error_of("/sys/kernel/btf/vmlinux");
}

std::string probe_tap() {
  const auto opened = bpf::QmpTap::open(bpf::look_around());
  return opened ? std::string() : to_string(opened.error());
}

/// Whether breakpoints can be set: at this program's own beginning, which does not run again.
std::string probe_uprobes() {
  auto probe = bpf::QemuCalls::open(bpf::look_around());
  if (!probe) return to_string(probe.error());
  auto self = sym::Executable::open("/proc/self/exe");
  if (!self) return to_string(self.error());
  const auto* main = (*self)->find("main");
  const auto place = main != nullptr ? (*self)->file_offset(main->address) : std::nullopt;
  if (!place) return "this program has no symbols";
  auto uprobes = bpf::Uprobes::start((*probe)->program_fd(), "/proc/self/exe", {{*place, 0}});
  if (!uprobes) return to_string(uprobes.error());
  const auto news = (*uprobes)->wait(kPatience);
  if (!news) return "nothing is attached within a minute";
  return news->what == bpf::Uprobes::News::What::failed ? std::strerror(news->error) : std::string();
}

std::string probe_libvirt() {
  for (const char* program : {"libvirtd", "virtlogd", "virsh"})
    if (const std::string missing = probe_program({program, "--version"}); !missing.empty()) return missing;
  // Whether a domain starts: what stands in its way is libvirt's or the machine's.
  try {
    Libvirt libvirt;
    libvirt.start_domain("vmwhy-probe-" + std::to_string(::getpid()));
    return {};
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

std::string probe_sock_diag() {
  // Their modules may be missing, or may not be loaded from here.
  if (qmp::dump_unix_sockets().empty()) return "sock_diag tells of no Unix socket";
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  socklen_t size = sizeof address;
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* plain = reinterpret_cast<sockaddr*>(&address);
  if (::bind(listener.get(), plain, size) != 0 || ::listen(listener.get(), 1) != 0 ||
      ::getsockname(listener.get(), plain, &size) != 0 || ::connect(client.get(), plain, size) != 0)
    return error_of("a connection to 127.0.0.1");
  for (const host::TcpSocket& socket : host::dump_tcp_sockets())
    if (socket.remote.port == ntohs(address.sin_port) && socket.has_info) return {};
  return "sock_diag does not tell of a TCP socket";
}

/// A target that QEMU's own client reads.
std::string probe_iscsi() {
  if (const std::string missing = probe_program({"tgtd", "--version"}); !missing.empty()) return missing;
  try {
    const TempDir dir;
    const IscsiTarget target(dir, dir.sparse("disk.raw", 1 << 20));
    const Output output = run_program({"qemu-img", "info", target.url()});
    return output.status.code == 0 ? "" : output.err.substr(0, output.err.find('\n'));
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

std::string probe_net_namespace() {
  // `ip` brings its loopback device up, and a monitor's socket is reached by its path from another one.
  const Output output = run_program({"unshare", "-n", "ip", "link", "set", "lo", "up"});
  return output.status.code == 0 ? "" : "unshare -n ip link: " + output.err.substr(0, output.err.find('\n'));
}

std::string probe_io_uring() {
  const std::string disabled = read_file("/proc/sys/kernel/io_uring_disabled");
  return disabled == "0\n" ? "" : "/proc/sys/kernel/io_uring_disabled: " + disabled;
}

/// A QEMU that exports its functions, as those built with modules do, names them.
std::string probe_qemu_symbols() {
  const auto executable = sym::Executable::open(program_path("qemu-system-x86_64"));
  if (!executable) return to_string(executable.error());
  for (const char* name : {"qmp_pmemsave", "main_loop_wait"})
    if ((*executable)->find(name) == nullptr) return std::string("QEMU does not export ") + name;
  return {};
}

std::string probe_kvm_events() {
  return ::access("/sys/module/kvm", F_OK) == 0 ? "" : error_of("/sys/module/kvm");
}

using Probe = std::string (*)();
const std::map<std::string, Probe, std::less<>>& probes() {
  static const std::map<std::string, Probe, std::less<>> all{
      {"root", probe_root},
      {"unprivileged", probe_unprivileged},
      {"kvm", probe_kvm},
      {"loop", probe_loop},
      {"mount", probe_mount},
      {"overlay", probe_overlay},
      {"ext4", probe_ext4},
      {"xfs", probe_xfs},
      {"fuse", probe_fuse},
      {"kmsg", probe_kmsg},
      {"kmsg_write", probe_kmsg_write},
      {"freezer_v1", [] { return probe_freezer(Freezer::Version::v1); }},
      {"freezer_v2", [] { return probe_freezer(Freezer::Version::v2); }},
      {"cpu_quota", probe_cpu_quota},
      {"memory_limit", probe_memory_limit},
      {"pid_again", probe_pid_again},
      {"ptrace", probe_ptrace},
      {"qemu",
       [] {
         return probe_program({"qemu-system-x86_64", "--version"});
       }},
      {"qemu_symbols", probe_qemu_symbols},
      {"compiler",
       [] {
         return probe_program({"gcc", "--version"});
       }},
      {"io_uring", probe_io_uring},
      {"qemu_img",
       [] {
         return probe_program({"qemu-img", "--version"});
       }},
      {"nbdkit",
       [] {
         return probe_program({"nbdkit", "--version"});
       }},
      {"iscsi", probe_iscsi},
      {"libvirt", probe_libvirt},
      {"proc_events", probe_proc_events},
      {"userfaultfd", probe_userfaultfd},
      {"bpf", probe_bpf},
      {"bpf_casts",
       [] {
         return bpf::look_around().word_type != 0 ? std::string()
                                                  : std::string("the kernel has no bpf_rdonly_cast (6.2)");
       }},
      {"tap", probe_tap},
      {"uprobes", probe_uprobes},
      {"kvm_events", probe_kvm_events},
      {"sock_diag", probe_sock_diag},
      {"net_namespace", probe_net_namespace},
  };
  return all;
}

}  // namespace

std::vector<std::string_view> capability_names() {
  std::vector<std::string_view> names;
  for (const auto& entry : probes()) names.push_back(entry.first);
  return names;
}

const std::string& capability_missing(std::string_view name) {
  static std::mutex mutex;
  static std::map<std::string, std::string, std::less<>> known;
  const std::lock_guard lock(mutex);
  if (const auto found = known.find(name); found != known.end()) return found->second;
  std::string reason;
  if (const auto probe = probes().find(name); probe == probes().end()) {
    reason = "no such capability";
  } else {
    try {
      reason = probe->second();
    } catch (const std::system_error& error) {
      reason = error.what();
    }
  }
  return known.emplace(name, std::move(reason)).first->second;
}

int capability_option(int argc, char** argv) {
  const std::string_view option = argc > 1 ? argv[1] : "";
  if (option == "--capabilities") {
    for (const auto name : capability_names()) {
      const std::string& missing = capability_missing(name);
      std::cout << name << ": " << (missing.empty() ? "available" : missing) << '\n';
    }
    return 0;
  }
  if (option != "--capability") return -1;
  if (argc != 3) {
    std::cerr << "--capability takes one name\n";
    return 2;
  }
  const std::string& missing = capability_missing(argv[2]);
  if (missing.empty()) return 0;
  std::cout << missing << '\n';
  return 1;
}

}  // namespace vmwhy::test
