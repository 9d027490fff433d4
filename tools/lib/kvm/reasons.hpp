// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Names of exit reasons, as the kernel writes them, for each kind of virtualization. A code that no table has
// is shown as a number: a wrong name is worse than none. Pure functions, any thread.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace vmwhy::kvm {

/// Whose exit codes. The numbers are those of enum kvm_exits_isa, and are stored in traces.
enum class Isa : std::uint32_t { unknown = 0, vmx = 1, svm = 2, arm64 = 3, pvm = 4 };
std::string_view to_string(Isa isa);
Isa isa_from(std::uint32_t number);

struct ReasonName {
  std::uint32_t code;
  std::string_view name;
};
/// The whole table. Sources: asm/vmx.h (VMX_EXIT_REASONS), asm/svm.h (SVM_EXIT_REASONS), asm/esr.h and
/// asm/kvm_asm.h (kvm_arm_exception_class, kvm_arm_exception_type).
std::span<const ReasonName> exit_reasons(Isa isa);

/// VMX: the low 16 bits are the basic reason, bit 31 says that the entry itself failed; the flags are
/// appended: "INVALID_STATE FAILED_VMENTRY". arm64: the exception class of a trap, or 0x100 + the exception
/// type.
std::string exit_reason_name(Isa isa, std::uint32_t code);

/// Whether the guest asked to sleep: its time is the guest's, not a cost of the exit.
bool is_halt(Isa isa, std::uint32_t code);

/// Whether the guest wanted memory that nested paging did not give it: an access of a device, or a page that
/// KVM has to bring.
bool is_nested_page_fault(Isa isa, std::uint32_t code);

/// "KVM_EXIT_IO"; a negative code is an errno: "EINTR". Source: linux/kvm.h.
std::string userspace_reason_name(std::int32_t code);
std::span<const ReasonName> userspace_reasons();
/// KVM_EXIT_HLT: without an in-kernel interrupt controller QEMU puts the vCPU to sleep.
bool is_userspace_halt(std::int32_t code);

/// "KVM_INTERNAL_ERROR_EMULATION". Source: linux/kvm.h.
std::string internal_error_name(std::uint64_t suberror);

constexpr std::int32_t kExitFailEntry = 9, kExitInternalError = 17;
/// In records and probes: the exit did not go to user space.
constexpr std::int32_t kNotToUserspace = -0x7fffffff;

}  // namespace vmwhy::kvm
