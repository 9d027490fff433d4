// SPDX-License-Identifier: BSD-2-Clause
#include "tests/bpf/kernel_memory.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>

#include "bpf/kernel_memory.skel.h"
#include "bpf/load/log.hpp"
#include "tests/bpf/layouts.hpp"

namespace vmwhy::test {

std::string layout_btf(const std::string& name) {
  const char* bins = std::getenv("VMWHY_BIN_DIR");
  const std::filesystem::path build = bins ? std::filesystem::path(bins).parent_path() : "build";
  return build / "bpf/layouts" / (name + ".o");
}

KernelMemory::KernelMemory() : skeleton_(nullptr) {
  bpf::LogCapture log;
  skeleton_ = kernel_memory_bpf__open_and_load();
  if (!skeleton_) throw std::runtime_error("kernel_memory: " + log.last());
  bpf_test_run_opts opts{};
  opts.sz = sizeof(opts);
  if (bpf_prog_test_run_opts(bpf_program__fd(skeleton_->progs.tell_address), &opts) != 0)
    throw std::runtime_error("kernel_memory: cannot run");
}
KernelMemory::~KernelMemory() {
  kernel_memory_bpf__destroy(skeleton_);
}
std::uint64_t KernelMemory::address(std::size_t at) const {
  return skeleton_->bss->address + at;
}
char* KernelMemory::bytes() {
  return skeleton_->bss->memory;
}

std::uint64_t KernelMemory::run_yardstick(const char* program, int times) const {
  const int fd = bpf_program__fd(bpf_object__find_program_by_name(skeleton_->obj, program));
  bpf_test_run_opts opts{};
  opts.sz = sizeof(opts);
  for (int i = 0; i < times; ++i) bpf_prog_test_run_opts(fd, &opts);
  bpf_prog_info info{};
  std::uint32_t size = sizeof(info);
  return bpf_obj_get_info_by_fd(fd, &info, &size) == 0 ? info.run_time_ns : 0;
}

}  // namespace vmwhy::test
