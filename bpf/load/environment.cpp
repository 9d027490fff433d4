// SPDX-License-Identifier: BSD-2-Clause
#include "bpf/load/environment.hpp"

#include <sys/utsname.h>
#include <unistd.h>

#include <charconv>
#include <fstream>
#include <sstream>

#include "bpf/load/kernel_btf.hpp"

namespace vmwhy::bpf {
namespace {

constexpr int kCapSysAdmin = 21, kCapPerfmon = 38, kCapBpf = 39;

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return in ? out.str() : std::string();
}

bool exists(const std::string& path) {
  return ::access(path.c_str(), F_OK) == 0;
}

std::uint64_t effective_capabilities(const std::string& proc) {
  const std::string status = read_text(proc + "/self/status");
  const std::size_t at = status.find("CapEff:\t");
  std::uint64_t value = 0;
  if (at != std::string::npos)
    std::from_chars(status.data() + at + 8, status.data() + status.size(), value, 16);
  return value;
}

void check_capabilities(Environment& env, const EnvironmentOptions& options) {
  const std::uint64_t caps = effective_capabilities(options.proc);
  const auto has = [&](int cap) { return (caps >> cap & 1) != 0; };
  env.capable = has(kCapSysAdmin) || (has(kCapBpf) && has(kCapPerfmon));
  if (env.capable) {
    env.checks.push_back(
        {"capabilities", Finding::ok, has(kCapSysAdmin) ? "CAP_SYS_ADMIN" : "CAP_BPF and CAP_PERFMON", ""});
    return;
  }
  std::string lacking;
  if (!has(kCapBpf)) lacking = "CAP_BPF";
  if (!has(kCapPerfmon)) lacking += lacking.empty() ? "CAP_PERFMON" : " and CAP_PERFMON";
  env.checks.push_back({"capabilities", Finding::missing, lacking + " missing: probes cannot be loaded",
                        "run as root, or: setcap cap_bpf,cap_perfmon,cap_sys_ptrace+ep on the binary"});
}

void check_lockdown(Environment& env, const EnvironmentOptions& options) {
  const std::string text = read_text(options.sys + "/kernel/security/lockdown");
  if (text.find("[confidentiality]") != std::string::npos) {
    env.lockdown_confidentiality = true;
    env.checks.push_back({"lockdown", Finding::missing,
                          "the kernel is locked down for confidentiality: BPF may not read kernel memory",
                          "boot with lockdown=integrity, or with Secure Boot off"});
  } else if (text.empty()) {
    env.checks.push_back({"lockdown", Finding::ok, "not in use, or securityfs is not mounted", ""});
  } else {
    env.checks.push_back(
        {"lockdown", Finding::ok,
         text.find("[integrity]") != std::string::npos ? "integrity: no obstacle to probes" : "none", ""});
  }
}

Isa find_isa(const EnvironmentOptions& options) {
  utsname host{};
  ::uname(&host);
  if (std::string_view(host.machine) == "aarch64") return Isa::arm64;
  const bool intel = exists(options.sys + "/module/kvm_intel"), amd = exists(options.sys + "/module/kvm_amd");
  if (intel && amd) {  // Both built in: only the one that fits the processor runs.
    const std::string cpu = read_text(options.proc + "/cpuinfo").substr(0, 16384);
    return cpu.find(" svm ") != std::string::npos ? Isa::svm : Isa::vmx;
  }
  if (intel) return Isa::vmx;
  if (amd) return Isa::svm;
  if (exists(options.sys + "/module/kvm_pvm")) return Isa::pvm;
  return Isa::unknown;
}

void check_kvm(Environment& env, const EnvironmentOptions& options) {
  env.isa = find_isa(options);
  env.kvm = exists(options.sys + "/module/kvm") || env.isa == Isa::arm64;
  if (!env.kvm)
    env.checks.push_back(
        {"kvm", Finding::missing, "the kvm module is not loaded", "modprobe kvm_intel or modprobe kvm_amd"});
  else if (env.isa == Isa::unknown)
    env.checks.push_back({"kvm", Finding::partial, "kvm is loaded, but no module that runs guests",
                          "modprobe kvm_intel or modprobe kvm_amd"});
  else
    env.checks.push_back({"kvm", Finding::ok, "guests run by " + std::string(to_string(env.isa)), ""});
}

void check_tracefs(Environment& env, const EnvironmentOptions& options) {
  for (const std::string& path : {options.sys + "/kernel/tracing", options.sys + "/kernel/debug/tracing"})
    if (env.tracefs.empty() && exists(path + "/events")) env.tracefs = path;
  if (env.tracefs.empty()) {
    env.checks.push_back({"tracefs", Finding::partial,
                          "tracefs is not mounted: no fallback to classic tracepoints",
                          "mount -t tracefs tracefs /sys/kernel/tracing"});
    return;
  }
  env.classic_reason_offset =
      format_offset(read_text(env.tracefs + "/events/kvm/kvm_exit/format"), "exit_reason");
  env.checks.push_back({"tracefs", Finding::ok, env.tracefs, ""});
}

void check_btf(Environment& env, const EnvironmentOptions& options) {
  const KernelBtf kernel(options.sys + "/kernel/btf", {"kvm", "kvm_intel", "kvm_amd", "kvm_pvm"});
  env.btf = kernel.has_vmlinux();
  if (!env.btf) {
    env.checks.push_back({"btf", Finding::missing,
                          options.sys + "/kernel/btf/vmlinux cannot be read: this kernel has no BTF",
                          "use a kernel with CONFIG_DEBUG_INFO_BTF=y"});
    return;
  }
  std::string modules;
  for (const std::string& module : kernel.modules()) modules += (modules.empty() ? " and " : ", ") + module;
  env.checks.push_back({"btf", Finding::ok, "vmlinux" + modules, ""});
  if (kernel.has_function("bpf_rdonly_cast")) env.word_type = kernel.struct_id("timespec64");
  env.exit_arguments = kernel.tracepoint_arguments("kvm_exit");
  switch (env.isa) {
    case Isa::vmx:
      env.cached_reason = kernel.has_struct("vcpu_vmx");
      break;
    case Isa::svm:
      env.cached_reason = kernel.has_struct("vcpu_svm") && kernel.has_struct("vmcb_control_area");
      break;
    case Isa::arm64:
      env.cached_reason = true;  // The reason is an argument of the tracepoint.
      break;
    default:
      break;
  }
}

void check_exit(Environment& env) {
  const bool cached = env.exit_arguments && (env.cached_reason || *env.exit_arguments == 3);
  if (env.isa == Isa::pvm)
    env.checks.push_back(
        {"kvm_exit", Finding::partial, "does not fire under PVM; exits to QEMU do (kvm_userspace_exit)", ""});
  else if (cached)
    env.checks.push_back({"kvm_exit", Finding::ok, "the reason is read from what KVM cached", ""});
  else if (env.classic_reason_offset)
    env.checks.push_back(
        {"kvm_exit", Finding::partial,
         "no BTF of the kvm modules: the classic tracepoint is used, which costs more per exit",
         "use kvm modules with BTF (CONFIG_DEBUG_INFO_BTF_MODULES=y)"});
  else
    env.checks.push_back({"kvm_exit", Finding::missing,
                          "neither BTF nor tracefs shows the tracepoint kvm_exit",
                          env.kvm ? "mount -t tracefs tracefs /sys/kernel/tracing" : "load kvm first"});
}

}  // namespace

std::string_view to_string(Isa isa) {
  switch (isa) {
    case Isa::vmx:
      return "vmx";
    case Isa::svm:
      return "svm";
    case Isa::arm64:
      return "arm64";
    case Isa::pvm:
      return "pvm";
    default:
      return "unknown";
  }
}

std::optional<std::uint32_t> format_offset(std::string_view format, std::string_view field) {
  const std::string end = " " + std::string(field) + ";\toffset:";
  const std::size_t at = format.find(end);
  if (at == std::string_view::npos) return {};
  const std::string_view rest = format.substr(at + end.size());
  std::uint32_t value = 0;
  const auto [after, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  if (error != std::errc() || after == rest.data() || value > 4096) return {};
  return value;
}

Environment look_around(const EnvironmentOptions& options) {
  Environment env;
  const std::string pid_max = read_text(options.proc + "/sys/kernel/pid_max");
  std::from_chars(pid_max.data(), pid_max.data() + pid_max.size(), env.pid_max);
  check_capabilities(env, options);
  check_lockdown(env, options);
  check_kvm(env, options);
  check_tracefs(env, options);
  check_btf(env, options);
  check_exit(env);
  return env;
}

std::optional<Failure> Environment::obstacle(bool needs_kvm) const {
  for (const char* name : {"capabilities", "lockdown", "btf", "kvm"})
    for (const Check& check : checks)
      if (check.name == name && check.finding == Finding::missing &&
          (needs_kvm || name != std::string_view("kvm")))
        return Failure{{}, check.detail, check.remedy};
  return {};
}

}  // namespace vmwhy::bpf
