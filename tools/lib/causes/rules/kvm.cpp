// SPDX-License-Identifier: BSD-2-Clause
// What KVM's tracepoints show: exits that KVM could not handle, entries that failed, exits that eat a vCPU's
// time.
#include <fmt/format.h>

#include <algorithm>

#include "causes/rules/rules.hpp"
#include "kvm/reasons.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {
namespace {

using timeline::Topic;

const timeline::KvmFailure* failure_of(const Case& c, std::int32_t user_code) {
  if (c.incident.topic != Topic::kvm_failure) return nullptr;
  const timeline::KvmFailure* failure = c.vm.kvm_failures.first_in(c.begin, c.until);
  return failure != nullptr && failure->failure.user_code == user_code ? failure : nullptr;
}

std::string last_exit(const trace::KvmFailure& failure) {
  return kvm::exit_reason_name(kvm::isa_from(failure.isa), failure.last_code);
}

Finding failure_finding(const Case& c, const timeline::KvmFailure& failure) {
  Finding finding;
  finding.confidence = Confidence::proven;
  finding.evidence.push_back({failure.time_ns, "kvm", failure.text});
  finding.details["vcpu"] = failure.failure.vcpu;
  finding.details["last_exit"] = last_exit(failure.failure);
  if (c.vm.statuses.empty())
    finding.not_proved.push_back({"whether QEMU paused the VM for it", "its monitor was not watched"});
  return finding;
}

/// The port or address that the storm's vCPU touched most in the same window.
const timeline::KvmExits* top_address(const Case& c, const timeline::KvmExits& storm) {
  const timeline::KvmExits* top = nullptr;
  for (const timeline::KvmExits& exits : c.vm.kvm_exits)
    if (exits.sum.kind >= 2 && exits.sum.tid == storm.sum.tid && exits.time_ns == storm.time_ns &&
        (top == nullptr || exits.sum.count > top->sum.count))
      top = &exits;
  return top;
}

}  // namespace

Opinion judge_kvm_failure_seen(const Case& c) {
  const timeline::KvmFailure* failure = failure_of(c, kvm::kExitInternalError);
  if (failure == nullptr) return nothing();
  Finding finding = failure_finding(c, *failure);
  const bool known = failure->failure.detail != UINT64_MAX;
  const std::string suberror =
      known ? kvm::internal_error_name(failure->failure.detail) : "suberror not readable";
  finding.summary = fmt::format("KVM gave up on vCPU {}: internal error, {}; its last exit was {}",
                                failure->failure.vcpu, suberror, last_exit(failure->failure));
  if (known) {
    finding.details["suberror"] = failure->failure.detail;
    finding.details["suberror_name"] = suberror;
  }
  finding.remedy.push_back("keep QEMU's stderr now: a restart overwrites it");
  return found(std::move(finding));
}

Opinion judge_kvm_entry_failed(const Case& c) {
  const timeline::KvmFailure* failure = failure_of(c, kvm::kExitFailEntry);
  if (failure == nullptr) return nothing();
  Finding finding = failure_finding(c, *failure);
  finding.summary = fmt::format("KVM could not enter the guest on vCPU {}", failure->failure.vcpu);
  if (failure->failure.detail != UINT64_MAX) {
    finding.summary += fmt::format(": hardware reason {:#x}", failure->failure.detail);
    finding.details["hardware_reason"] = failure->failure.detail;
  }
  finding.remedy.push_back("look at the host's kernel log: KVM dumps the guest's control structure there");
  return found(std::move(finding));
}

Opinion judge_exit_storm(const Case& c) {
  if (c.incident.topic != Topic::exit_storm) return nothing();
  const timeline::KvmExits* storm = nullptr;
  for (const timeline::KvmExits& exits : c.vm.kvm_exits)
    if (exits.time_ns >= c.begin && timeline::is_exit_storm(exits.sum) &&
        (storm == nullptr || exits.sum.total_ns > storm->sum.total_ns))
      storm = &exits;
  if (storm == nullptr) return nothing();
  const trace::KvmExitSummary& sum = storm->sum;
  const auto window = static_cast<double>(sum.window_ns);
  const auto share = static_cast<std::uint64_t>(100.0 * static_cast<double>(sum.total_ns) / window);
  const auto rate = static_cast<std::uint64_t>(1e9 * static_cast<double>(sum.count) / window);
  Finding finding;
  finding.confidence = Confidence::proven;
  finding.summary = fmt::format("vCPU {} spends {} % of its time on {} exits ({} a second)", sum.vcpu, share,
                                storm->reason, rate);
  finding.details["vcpu"] = sum.vcpu;
  finding.details["exit_reason"] = storm->reason;
  finding.details["exits_per_s"] = rate;
  finding.details["percent_of_time"] = share;
  finding.evidence.push_back(
      {storm->time_ns, "kvm",
       fmt::format("{} exits by {} took {:.1f} ms of {:.1f} ms, {:.1f} ms of it in QEMU", sum.count,
                   storm->reason, static_cast<double>(sum.total_ns) / 1e6, window / 1e6,
                   static_cast<double>(sum.qemu_ns) / 1e6)});
  if (const timeline::KvmExits* top = top_address(c, *storm)) {
    finding.details["address"] = top->sum.code;
    finding.evidence.push_back(
        {top->time_ns, "kvm", fmt::format("{} times {}", top->sum.count, top->reason)});
  }
  finding.not_proved.push_back({"what in the guest does it", "the guest is not looked into"});
  finding.remedy.push_back("find the guest's driver that uses this port or address, or the device behind it");
  return found(std::move(finding));
}

}  // namespace vmwhy::causes
