// SPDX-License-Identifier: BSD-2-Clause
#include "tests/bpf/fixture.hpp"

#include <time.h>
#include <unistd.h>

#include <stdexcept>

namespace vmwhy::test {

void KvmExitsProbe::SetUp() {
  VMWHY_NEEDS(bpf);
  memory_ = std::make_unique<KernelMemory>();
}

void KvmExitsProbe::load(const std::string& layout, bpf::Isa isa, bpf::KvmExitsOptions options) {
  options.form = bpf::KvmExitsOptions::Form::raw;
  options.custom_btf = layout_btf(layout);
  options.isa = isa;
  options.direct_reads = direct_;
  if (!options.exit_arguments) options.exit_arguments = 2;
  auto loaded = bpf::KvmExits::load(bpf::look_around(), options);
  if (!loaded) throw std::runtime_error(to_string(loaded.error()));
  probe_ = std::move(*loaded);
}

void KvmExitsProbe::run(const std::string& program, std::vector<std::uint64_t> arguments) {
  ASSERT_EQ(probe_->test_run(program, std::move(arguments)), 0) << program;
}

kvm_exits_vcpu KvmExitsProbe::row() const {
  kvm_exits_vcpu found{};
  const std::uint64_t me =
      static_cast<std::uint64_t>(::getpid()) << 32 | static_cast<std::uint32_t>(::gettid());
  probe_->visit([&](const kvm_exits_vcpu& row) {
    if (row.pid_tgid == me) found = row;
  });
  return found;
}

const kvm_exits_cell* KvmExitsProbe::cell(kvm_exits_kind kind, std::uint64_t code, std::uint32_t detail) {
  row_ = row();
  for (std::uint32_t i = 0; i < row_.cells_used; ++i) {
    const kvm_exits_cell& cell = row_.cells[i];
    if (cell.kind == static_cast<std::uint32_t>(kind) && cell.code == code && cell.detail == detail)
      return &cell;
  }
  return nullptr;
}

std::uint64_t KvmExitsProbe::count(kvm_exits_kind kind, std::uint64_t code, std::uint32_t detail) {
  const kvm_exits_cell* found = cell(kind, code, detail);
  return found ? found->count : 0;
}

void busy_wait(std::uint64_t ns) {
  const auto now = [] {
    timespec at{};
    ::clock_gettime(CLOCK_BOOTTIME, &at);
    return static_cast<std::uint64_t>(at.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(at.tv_nsec);
  };
  for (const std::uint64_t end = now() + ns; now() < end;) {
  }
}

}  // namespace vmwhy::test
