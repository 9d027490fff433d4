// SPDX-License-Identifier: BSD-2-Clause
#include "host/sensors.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <cerrno>
#include <cstring>

#include "host/cgroup.hpp"
#include "host/exit_status.hpp"
#include "host/pressure.hpp"
#include "host/proc_file.hpp"

namespace vmwhy::host {
namespace {

using State = trace::SensorState;

SensorReport probe_proc() {
  SensorReport out{"proc", State::on, 0, "states, wait channels and kernel stacks of threads; files of disks",
                   ""};
  const auto stack = read_small_file("/proc/self/stack", 4096);
  const bool others = ::geteuid() == 0;
  if (stack && others) return out;
  out.state = State::partial;
  out.error = stack ? EPERM : stack.error().code.value();
  out.detail = others ? "thread states and wait channels; no kernel stacks"
                      : "thread states only of other users' QEMUs; no kernel stacks, no file descriptors";
  out.remedy = others ? "kernel stacks need CAP_SYS_ADMIN and CONFIG_STACKTRACE" : "run as root";
  return out;
}

SensorReport probe_kmsg() {
  const UniqueFd fd(::open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (fd) return {"kmsg", State::on, 0, "the kernel's log: I/O errors, OOM kills, file system errors", ""};
  return {"kmsg", State::off, errno, std::string("/dev/kmsg: ") + std::strerror(errno),
          errno == ENOENT ? "run on the host, outside of the container" : "run as root (CAP_SYSLOG)"};
}

SensorReport probe_psi() {
  const auto record = host_pressure(0);
  if (record) return {"psi", State::on, 0, "pressure on CPU, memory and I/O", ""};
  return {"psi", State::off, record.error().code.value(), to_string(record.error()),
          "boot with psi=1 (CONFIG_PSI)"};
}

SensorReport probe_cgroup() {
  const CgroupMounts mounts = find_cgroup_mounts();
  const bool v1 = !mounts.v1.empty(), v2 = !mounts.unified.empty();
  const char* remedy = "mount cgroup2 on /sys/fs/cgroup";
  if (!v1 && !v2) return {"cgroup", State::off, ENOENT, "no cgroup file system is mounted", remedy};
  const std::string which = v1 && v2 ? "v1 and v2" : v1 ? "v1" : "v2";
  return {"cgroup", State::on, 0, "freezer, memory limit, CPU quota, OOM kills (" + which + ")", ""};
}

SensorReport probe_reach() {
  const bool others = ::geteuid() == 0;
  if (others)
    return {"reach", State::on, 0, "a helper process looks at each disk's file before QEMU is asked", ""};
  return {"reach", State::partial, EPERM, "disks are looked at by path, not through QEMU's descriptors",
          "run as root, or as QEMU's user"};
}

SensorReport probe_exit() {
  if (pidfd_tells_exit()) return {"exit", State::on, 0, "how a QEMU ended, by its pidfd", ""};
  boost::asio::io_context io;
  if (const auto connector = ProcessConnector::open(io))
    return {"exit", State::on, 0, "how a QEMU ended, by the process connector", ""};
  return {"exit", State::partial, ENOTSUP, "that a QEMU ended; how, only while it is a zombie",
          "Linux 6.15 or later, or run as root (CAP_NET_ADMIN) with CONFIG_PROC_EVENTS"};
}

}  // namespace

std::vector<SensorReport> probe_sensors() {
  return {probe_proc(), probe_kmsg(), probe_psi(), probe_cgroup(), probe_reach(), probe_exit()};
}

trace::OwnedRecord sensor_record(std::uint64_t time_ns, const SensorReport& report, std::uint32_t vm) {
  trace::Sensor sensor{};
  sensor.state = static_cast<std::uint32_t>(report.state);
  sensor.error = report.error;
  return trace::make_record(time_ns, vm, sensor,
                            trace::join_text({report.name, report.detail, report.remedy}));
}

std::string_view to_string(trace::SensorState state) {
  switch (state) {
    case State::on:
      return "on";
    case State::failed:
      return "failed";
    case State::partial:
      return "partial";
    case State::off:
      break;
  }
  return "off";
}

}  // namespace vmwhy::host
