// SPDX-License-Identifier: BSD-2-Clause
#include "bpf/load/kernel_btf.hpp"

#include <bpf/btf.h>
#include <bpf/libbpf.h>

namespace vmwhy::bpf {

KernelBtf::KernelBtf(const std::string& folder, const std::vector<std::string>& modules) {
  const libbpf_print_fn_t print = libbpf_set_print(nullptr);
  vmlinux_ = btf__parse((folder + "/vmlinux").c_str(), nullptr);
  for (const std::string& module : modules) {
    if (!vmlinux_) break;
    std::string file = folder;
    file.append("/").append(module);
    btf* split = btf__parse_split(file.c_str(), vmlinux_);
    if (!split) continue;
    split_.push_back(split);
    modules_.push_back(module);
  }
  libbpf_set_print(print);
}

KernelBtf::~KernelBtf() {
  for (btf* split : split_) btf__free(split);
  btf__free(vmlinux_);
}

namespace {

// The first of the BTFs that has `name` of `kind`.
std::pair<const btf*, const btf_type*> find(const btf* vmlinux, const std::vector<btf*>& split,
                                            const std::string& name, __u32 kind) {
  const auto look = [&](const btf* in) -> const btf_type* {
    const int id = in ? btf__find_by_name_kind(in, name.c_str(), kind) : -1;
    return id > 0 ? btf__type_by_id(in, static_cast<__u32>(id)) : nullptr;
  };
  for (const btf* in : split)
    if (const btf_type* type = look(in)) return {in, type};
  if (const btf_type* type = look(vmlinux)) return {vmlinux, type};
  return {nullptr, nullptr};
}

}  // namespace

std::optional<unsigned> KernelBtf::tracepoint_arguments(const std::string& name) const {
  const auto [in, type] = find(vmlinux_, split_, "btf_trace_" + name, BTF_KIND_TYPEDEF);
  if (!type) return {};
  const btf_type* pointer = btf__type_by_id(in, type->type);
  if (!pointer || !btf_is_ptr(pointer)) return {};
  const btf_type* proto = btf__type_by_id(in, pointer->type);
  if (!proto || !btf_is_func_proto(proto) || btf_vlen(proto) == 0) return {};
  return btf_vlen(proto) - 1;
}

bool KernelBtf::has_struct(const std::string& name) const {
  return find(vmlinux_, split_, name, BTF_KIND_STRUCT).second != nullptr;
}

bool KernelBtf::has_function(const std::string& name) const {
  return find(vmlinux_, {}, name, BTF_KIND_FUNC).second != nullptr;
}

std::uint32_t KernelBtf::struct_id(const std::string& name) const {
  const int id = vmlinux_ ? btf__find_by_name_kind(vmlinux_, name.c_str(), BTF_KIND_STRUCT) : -1;
  return id > 0 ? static_cast<std::uint32_t>(id) : 0;
}

}  // namespace vmwhy::bpf
