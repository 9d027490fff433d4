// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Questions to the running kernel's BTF, vmlinux's and the modules': which tracepoints there are and what
// their arguments are. Nothing is cached; a question costs the loading of the BTF (some ten milliseconds).

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

struct btf;

namespace vmwhy::bpf {

class KernelBtf {
 public:
  /// @param folder  Where the kernel shows BTF.
  /// @param modules Names of the modules to look into besides vmlinux, those that are not there are ignored.
  KernelBtf(const std::string& folder, const std::vector<std::string>& modules);
  ~KernelBtf();
  KernelBtf(const KernelBtf&) = delete;
  KernelBtf& operator=(const KernelBtf&) = delete;

  bool has_vmlinux() const { return vmlinux_ != nullptr; }
  /// Modules whose BTF was read.
  const std::vector<std::string>& modules() const { return modules_; }

  /// How many arguments a tracepoint passes (without the leading void pointer); nothing where BTF shows no
  /// such tracepoint.
  std::optional<unsigned> tracepoint_arguments(const std::string& name) const;
  bool has_struct(const std::string& name) const;
  /// Of vmlinux alone.
  bool has_function(const std::string& name) const;
  /// The id of a struct of vmlinux; 0: there is none.
  std::uint32_t struct_id(const std::string& name) const;

 private:
  btf* vmlinux_ = nullptr;
  std::vector<btf*> split_;
  std::vector<std::string> modules_;
};

}  // namespace vmwhy::bpf
