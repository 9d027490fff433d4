// SPDX-License-Identifier: BSD-2-Clause
#include "bpf/load/programs.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cerrno>

namespace vmwhy::bpf {

int test_run(const bpf_object* object, const std::string& program, std::vector<std::uint64_t> arguments) {
  const bpf_program* found = bpf_object__find_program_by_name(object, program.c_str());
  if (!found) return ENOENT;
  bpf_test_run_opts opts{};
  opts.sz = sizeof(opts);
  opts.ctx_in = arguments.data();
  opts.ctx_size_in = static_cast<std::uint32_t>(arguments.size() * sizeof(std::uint64_t));
  return bpf_prog_test_run_opts(bpf_program__fd(found), &opts) == 0 ? 0 : errno;
}

std::pair<std::uint64_t, std::uint64_t> run_time(const std::vector<const bpf_program*>& programs) {
  std::pair<std::uint64_t, std::uint64_t> sum{};
  for (const bpf_program* program : programs) {
    if (!program) continue;
    bpf_prog_info info{};
    std::uint32_t size = sizeof(info);
    if (bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size) != 0) continue;
    sum.first += info.run_cnt;
    sum.second += info.run_time_ns;
  }
  return sum;
}

}  // namespace vmwhy::bpf
