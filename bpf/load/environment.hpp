// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What this kernel and this process offer to probes, and what is missing with its remedy. Asks only: loads
// nothing, changes nothing.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bpf/load/failure.hpp"

namespace vmwhy::bpf {

/// Which module runs the guests. The numbers are those of enum kvm_exits_isa.
enum class Isa : std::uint32_t { unknown = 0, vmx = 1, svm = 2, arm64 = 3, pvm = 4 };
std::string_view to_string(Isa isa);

enum class Finding { ok, partial, missing };

struct Check {
  std::string name;  ///< "btf", "lockdown", "capabilities", "kvm", "kvm_exit", "tracefs".
  Finding finding;
  std::string detail;  ///< One sentence.
  std::string remedy;  ///< Empty where none is needed or known.
};

struct EnvironmentOptions {
  std::string sys = "/sys";
  std::string proc = "/proc";
};

struct Environment {
  Isa isa = Isa::unknown;
  bool kvm = false;      ///< A kvm module is there.
  bool capable = false;  ///< May load and attach.
  bool btf = false;      ///< The kernel shows its own BTF.
  bool lockdown_confidentiality = false;
  bool cached_reason = false;              ///< BTF shows where KVM caches the exit reason of this isa.
  std::optional<unsigned> exit_arguments;  ///< kvm_exit's, by BTF.
  std::uint32_t word_type = 0;  ///< BTF id of a struct of vmlinux that begins with 64 bits, where programs
                                ///< may read the kernel's memory directly (bpf_rdonly_cast); 0: they may not.
  std::string tracefs;          ///< Where it is mounted; empty: nowhere.
  std::optional<std::uint32_t> classic_reason_offset;  ///< Of exit_reason in events/kvm/kvm_exit/format.
  std::uint32_t pid_max = 32768;
  std::vector<Check> checks;

  /// The first thing without which no probe can be loaded, as a sentence with its remedy.
  /// @param needs_kvm  Whether a host without kvm is one.
  std::optional<Failure> obstacle(bool needs_kvm = true) const;
};

Environment look_around(const EnvironmentOptions& options = {});

/// Offset of a field in the text of a tracepoint's format file. Any text is safe.
std::optional<std::uint32_t> format_offset(std::string_view format, std::string_view field);

}  // namespace vmwhy::bpf
