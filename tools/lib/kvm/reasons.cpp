// SPDX-License-Identifier: BSD-2-Clause
#include "kvm/reasons.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "kvm/tables.hpp"

namespace vmwhy::kvm {
namespace {

constexpr std::uint32_t kVmxBasicMask = 0xffff, kVmxFailedEntry = 0x80000000;
constexpr std::uint32_t kVmxHlt = 12, kSvmHlt = 0x78, kSvmIdleHalt = 0xa6, kArmWfx = 1;
constexpr std::uint32_t kVmxEptViolation = 48, kSvmNestedPageFault = 0x400;
constexpr std::int32_t kExitHlt = 5;

std::string_view find(std::span<const ReasonName> table, std::uint32_t code) {
  const auto found =
      std::find_if(table.begin(), table.end(), [&](const ReasonName& row) { return row.code == code; });
  return found == table.end() ? std::string_view() : found->name;
}

std::string vmx_name(std::uint32_t code) {
  const std::string_view basic = find(kVmx, code & kVmxBasicMask);
  std::string out = basic.empty() ? fmt::format("{}", code & kVmxBasicMask) : std::string(basic);
  if (code & kVmxFailedEntry) out += " FAILED_VMENTRY";
  if (const std::uint32_t rest = code & ~kVmxBasicMask & ~kVmxFailedEntry) out += fmt::format(" {:#x}", rest);
  return out;
}

}  // namespace

std::string_view to_string(Isa isa) {
  constexpr std::string_view kNames[] = {"unknown", "vmx", "svm", "arm64", "pvm"};
  return kNames[static_cast<std::uint32_t>(isa_from(static_cast<std::uint32_t>(isa)))];
}

Isa isa_from(std::uint32_t number) {
  return number <= static_cast<std::uint32_t>(Isa::pvm) ? static_cast<Isa>(number) : Isa::unknown;
}

std::span<const ReasonName> exit_reasons(Isa isa) {
  switch (isa) {
    case Isa::vmx:
      return kVmx;
    case Isa::svm:
      return kSvm;
    case Isa::arm64:
      return kArm64;
    default:
      return {};
  }
}

std::string exit_reason_name(Isa isa, std::uint32_t code) {
  if (isa == Isa::vmx) return vmx_name(code);
  const std::string_view name = find(exit_reasons(isa), code);
  return name.empty() ? fmt::format("{:#x}", code) : std::string(name);
}

bool is_halt(Isa isa, std::uint32_t code) {
  switch (isa) {
    case Isa::vmx:
      return code == kVmxHlt;
    case Isa::svm:
      return code == kSvmHlt || code == kSvmIdleHalt;
    case Isa::arm64:
      return code == kArmWfx;
    default:
      return false;
  }
}

bool is_nested_page_fault(Isa isa, std::uint32_t code) {
  return (isa == Isa::vmx && code == kVmxEptViolation) || (isa == Isa::svm && code == kSvmNestedPageFault);
}

std::span<const ReasonName> userspace_reasons() {
  return kUserspace;
}

std::string userspace_reason_name(std::int32_t code) {
  if (code < 0) {
    const char* name = ::strerrorname_np(-code);
    return name ? name : fmt::format("errno {}", -static_cast<std::int64_t>(code));
  }
  const std::string_view name = find(kUserspace, static_cast<std::uint32_t>(code));
  return name.empty() ? fmt::format("KVM_EXIT {}", code) : std::string(name);
}

bool is_userspace_halt(std::int32_t code) {
  return code == kExitHlt;
}

std::string internal_error_name(std::uint64_t suberror) {
  const std::string_view name = suberror > UINT32_MAX
                                    ? std::string_view()
                                    : find(kInternalErrors, static_cast<std::uint32_t>(suberror));
  return name.empty() ? fmt::format("suberror {}", suberror) : std::string(name);
}

}  // namespace vmwhy::kvm
