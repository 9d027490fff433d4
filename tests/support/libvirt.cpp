// SPDX-License-Identifier: BSD-2-Clause
#include "libvirt.hpp"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <system_error>

#include "wait.hpp"

namespace vmwhy::test {
namespace {

/// Where libvirt keeps what it knows: compiled in.
constexpr std::array<const char*, 5> kFolders = {"/run/libvirt", "/etc/libvirt", "/var/lib/libvirt",
                                                 "/var/log/libvirt", "/var/cache/libvirt"};

/// It takes ten seconds to look at its host on a machine with nothing else to do.
constexpr std::chrono::minutes kLibvirtPatience{4};

void write(const std::string& path, const std::string& text) {
  std::ofstream(path) << text;
}

std::string namespace_of(const std::string& process) {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/" + process + "/ns/mnt", error).string();
}

std::string domain_xml(const std::string& name, const std::string& devices) {
  const std::string boot = devices.empty() ? "" : "<boot dev='fd'/><boot dev='hd'/>";
  return "<domain type='qemu'><name>" + name +
         "</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>"
         "<os><type arch='x86_64' machine='pc'>hvm</type>" +
         boot + "</os><features><acpi/></features><devices>" + devices +
         "<emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/>"
         "<memballoon model='none'/></devices></domain>";
}

}  // namespace

Libvirt::Undertaker::Undertaker() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "pipe2");
  alive_.reset(ends[1]);
  pid_ = ::fork();
  if (pid_ == 0) {
    ::dup2(ends[0], 0);
    ::execl("/bin/sh", "sh", "-c",
            "cat; for file in /run/libvirt/qemu/*.pid; do kill -9 \"$(cat \"$file\")\"; done 2>/dev/null",
            nullptr);
    ::_exit(127);
  }
  ::close(ends[0]);
}

Libvirt::Undertaker::~Undertaker() {
  alive_.reset();
  if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
}

Libvirt::Libvirt() {
  // The first mount enters the namespace.
  mounts_.push_back(std::make_unique<Mount>("tmpfs", dir_.path() / "probe", "tmpfs"));
  if (namespace_of("self") == namespace_of(std::to_string(::getppid())))
    throw std::runtime_error("no mount namespace of its own");
  for (const char* folder : kFolders) {
    if (std::filesystem::create_directories(folder)) made_.emplace_back(folder);
    mounts_.push_back(std::make_unique<Mount>("tmpfs", folder, "tmpfs"));
  }
  // The user that libvirtd looks for even where it is told to use another one.
  write(dir_ / "passwd",
        read_file("/etc/passwd") + "libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin\n");
  write(dir_ / "group", read_file("/etc/group") + "libvirt-qemu:x:64055:\nkvm:x:64056:\n");
  for (const char* file : {"passwd", "group"})
    mounts_.push_back(std::make_unique<Mount>(dir_ / file, std::string("/etc/") + file, "bind"));
  write("/etc/libvirt/libvirtd.conf", "auth_unix_rw = \"none\"\nunix_sock_rw_perms = \"0700\"\n");
  write("/etc/libvirt/qemu.conf",
        "user = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nremember_owner = 0\n"
        "cgroup_controllers = []\nnamespaces = []\nsecurity_driver = \"none\"\n");
  undertaker_.emplace();
  log_daemon_.emplace(ChildProcess::Options{.args = {"virtlogd", "--pid-file", dir_ / "virtlogd.pid"},
                                            .stderr_file = dir_ / "virtlogd"});
  start_daemon();
}

Libvirt::~Libvirt() {
  undertaker_.reset();
  daemon_.reset();
  log_daemon_.reset();
  mounts_.clear();
  for (const std::string& folder : made_) ::rmdir(folder.c_str());
}

void Libvirt::start_daemon() {
  daemon_.emplace(ChildProcess::Options{.args = {"libvirtd", "--pid-file", dir_ / "libvirtd.pid"},
                                        .stderr_file = dir_ / "libvirtd"});
  const bool answers = wait_until(deadline_in(kLibvirtPatience),
                                  [&] { return !daemon_->running() || virsh({"version"}).status.code == 0; });
  if (!answers || !daemon_->running())
    throw std::runtime_error("libvirtd does not answer: " + read_file(dir_ / "libvirtd"));
}

Output Libvirt::virsh(std::vector<std::string> args) const {
  args.insert(args.begin(), {"virsh", "-c", "qemu:///system"});
  return run_program(std::move(args), deadline_in(kLibvirtPatience));
}

void Libvirt::start_domain(const std::string& name, const std::string& devices,
                           const std::vector<std::string>& options) {
  write(dir_ / "domain.xml", domain_xml(name, devices));
  std::vector<std::string> start = {"start", name};
  start.insert(start.end(), options.begin(), options.end());
  for (const std::vector<std::string>& args :
       {std::vector<std::string>{"define", dir_ / "domain.xml"}, start}) {
    const Output output = virsh(args);
    if (output.status.code != 0)
      throw std::runtime_error("virsh " + args[0] + ": " + output.err + read_file(dir_ / "libvirtd"));
  }
}

std::string Libvirt::state_of(const std::string& name) const {
  const std::string text = virsh({"domstate", "--reason", name}).out;
  return text.substr(0, text.find('\n'));
}

pid_t Libvirt::pid_of(const std::string& name) {
  return static_cast<pid_t>(std::atoi(read_file("/run/libvirt/qemu/" + name + ".pid").c_str()));
}

}  // namespace vmwhy::test
