// SPDX-License-Identifier: BSD-2-Clause
// The logic of the probe kvm_exits, on any kernel: made-up tracepoint arguments by bpf_prog_test_run.

#include <gmock/gmock.h>

#include <cerrno>
#include <numeric>
#include <thread>

#include "kvm/reasons.hpp"
#include "tests/bpf/fixture.hpp"

namespace vmwhy::test {
namespace {

using bpf::Isa;
constexpr auto kKvm = KVM_EXITS_KIND_KVM, kUser = KVM_EXITS_KIND_USERSPACE, kPio = KVM_EXITS_KIND_PIO,
               kMmio = KVM_EXITS_KIND_MMIO;
constexpr std::size_t kVmcbAt = 1024, kRunAt = 2048;

class VmxProbe : public KvmExitsProbe {
 protected:
  void exit_with(std::uint32_t reason) {
    memory_->as<vmx_6_1::vcpu_vmx>().exit_reason.full = reason;
    exit();
  }
};

TEST_F(VmxProbe, CountsEveryReasonOfTheTableUnderItsOwnCode) {
  load("vmx_6_1", Isa::vmx);
  std::uint64_t rounds = 0;
  for (const kvm::ReasonName& reason : kvm::exit_reasons(kvm::Isa::vmx)) {
    rounds = rounds % 5 + 1;
    for (std::uint64_t i = 0; i < rounds; ++i) {
      exit_with(reason.code);
      entry();
    }
    ASSERT_EQ(count(kKvm, reason.code), rounds) << reason.name;
    ASSERT_EQ(cell(kKvm, reason.code)->timed, rounds) << reason.name;
  }
  EXPECT_EQ(probe_->losses().lost(), 0u);
}

TEST_F(VmxProbe, KeepsFailedEntriesApartFromTheSameBasicReason) {
  load("vmx_6_1", Isa::vmx);
  exit_with(33);
  for (int i = 0; i < 3; ++i) exit_with(0x80000021);
  EXPECT_EQ(count(kKvm, 33), 1u);
  EXPECT_EQ(count(kKvm, 0x80000021), 3u);
}

TEST_F(VmxProbe, ReadsTheReasonWhereLinux616KeepsIt) {
  load("vmx_6_16", Isa::vmx);
  memory_->as<vmx_6_16::vcpu_vmx>().vt.exit_reason.full = 48;
  for (int i = 0; i < 7; ++i) exit();
  EXPECT_EQ(count(kKvm, 48), 7u);
}

TEST_F(VmxProbe, TakesTheReasonFromTheArgumentsOfOlderKernels) {
  bpf::KvmExitsOptions options;
  options.exit_arguments = 3;
  load("vmx_6_1", Isa::vmx, options);
  run("raw_kvm_exit", {30, memory_->address(), 1});
  EXPECT_EQ(count(kKvm, 30), 1u);
}

TEST_F(VmxProbe, CountsAnUnreadableVcpuInsteadOfGuessing) {
  load("vmx_6_1", Isa::vmx);
  run("raw_kvm_exit", {0xffff800000000000, 1});
  EXPECT_EQ(lost(KVM_EXITS_STAT_READ_FAILED), 1u);
  EXPECT_EQ(row().cells_used, 0u);
}

TEST_F(VmxProbe, IgnoresANullVcpu) {
  load("vmx_6_1", Isa::vmx);
  run("raw_kvm_exit", {0, 1});
  EXPECT_EQ(probe_->vcpus(), 0u);
}

TEST_F(VmxProbe, CannotReadWhereTheKernelHasNoSuchType) {
  load("svm_6_1", Isa::vmx);
  exit();
  EXPECT_EQ(lost(KVM_EXITS_STAT_READ_FAILED), 1u);
}

TEST_F(VmxProbe, LearnsTheVcpusNumberAtEntry) {
  load("vmx_6_1", Isa::vmx);
  memory_->as<vmx_6_1::vcpu_vmx>().vcpu.vcpu_id = 17;
  exit_with(10);
  EXPECT_EQ(row().vcpu_id, -1);
  entry();
  EXPECT_EQ(row().vcpu_id, 17);
}

TEST_F(VmxProbe, SplitsTheTimeOfAnExitIntoKernelAndQemu) {
  load("vmx_6_1", Isa::vmx);
  constexpr std::uint64_t kBefore = 3'000'000, kInQemu = 5'000'000, kAfter = 2'000'000;
  exit_with(30);
  busy_wait(kBefore);
  userspace_exit(2);
  busy_wait(kInQemu);
  fpu(1);
  busy_wait(kAfter);
  entry();
  const kvm_exits_cell exit_cell = *cell(kKvm, 30);
  EXPECT_GE(exit_cell.total_ns, kBefore + kInQemu + kAfter);
  EXPECT_GE(exit_cell.qemu_ns, kInQemu);
  EXPECT_GE(exit_cell.total_ns - exit_cell.qemu_ns, kBefore + kAfter);
  EXPECT_EQ(exit_cell.max_ns, exit_cell.total_ns);
  const kvm_exits_cell user = *cell(kUser, 2);
  EXPECT_EQ(user.total_ns, exit_cell.qemu_ns);
  EXPECT_EQ(user.count, 1u);
}

TEST_F(VmxProbe, EndsQemusPartAtTheEntryWhereNothingElseTells) {
  load("vmx_6_1", Isa::vmx);
  exit_with(30);
  userspace_exit(2);
  busy_wait(4'000'000);
  entry();
  EXPECT_GE(cell(kKvm, 30)->qemu_ns, 4'000'000u);
}

TEST_F(VmxProbe, PutsEachTimeIntoTheBucketOfItsPowerOfTwo) {
  load("vmx_6_1", Isa::vmx);
  for (int i = 0; i < 23; ++i) {
    exit_with(12);
    busy_wait(i * 10'000u);
    entry();
  }
  const kvm_exits_cell halts = *cell(kKvm, 12);
  EXPECT_EQ(std::accumulate(std::begin(halts.log2_ns), std::end(halts.log2_ns), 0u), 23u);
  std::uint64_t least = 0, most = 0;
  for (int i = 0; i < KVM_EXITS_BUCKETS; ++i) {
    least += halts.log2_ns[i] * (i == 0 ? 0 : std::uint64_t{1} << i);
    most += halts.log2_ns[i] * (std::uint64_t{2} << i);
  }
  EXPECT_LE(least, halts.total_ns);
  EXPECT_GT(most, halts.total_ns);
}

TEST_F(VmxProbe, CountsOnlyWhatLastedLongEnoughWhenAsked) {
  bpf::KvmExitsOptions options;
  options.min_latency_ns = 50'000'000;
  load("vmx_6_1", Isa::vmx, options);
  exit_with(48);
  busy_wait(60'000'000);
  entry();
  for (int i = 0; i < 5; ++i) {
    exit_with(10);
    entry();
  }
  EXPECT_EQ(count(kKvm, 48), 1u);
  EXPECT_LT(count(kKvm, 10), 5u);
}

TEST_F(VmxProbe, KeepsErrnosOfKvmRunApartFromItsReasons) {
  load("vmx_6_1", Isa::vmx);
  userspace_exit(2);
  for (int i = 0; i < 3; ++i) userspace_exit(2, -EINTR);
  EXPECT_EQ(count(kUser, 2), 1u);
  EXPECT_EQ(count(kUser, static_cast<std::uint64_t>(std::int64_t{-EINTR})), 3u);
}

TEST_F(VmxProbe, CountsAnMmioReadThatQemuAnswersOnce) {
  load("vmx_6_1", Isa::vmx);
  constexpr std::uint64_t kGpa = 0xfed000f0;
  exit_with(49);
  mmio(0, kGpa);
  userspace_exit(6);
  fpu(1);
  mmio(1, kGpa);
  entry();
  exit_with(49);
  mmio(1, kGpa);  // Answered in the kernel.
  entry();
  exit_with(49);
  mmio(2, kGpa);
  entry();
  EXPECT_EQ(count(kMmio, kGpa, 0), 2u);
  EXPECT_EQ(count(kMmio, kGpa, 1), 1u);
  EXPECT_EQ(cell(kMmio, kGpa, 0)->timed, 2u);
}

TEST_F(VmxProbe, CountsManyAddressesAndSaysWhichFoundNoPlace) {
  load("vmx_6_1", Isa::vmx);
  constexpr std::uint32_t kPorts = 200;
  for (std::uint32_t port = 0; port < kPorts; ++port) pio(true, port);
  std::uint64_t counted = 0;
  for (std::uint32_t port = 0; port < kPorts; ++port) counted += count(kPio, port, 1);
  EXPECT_GT(counted, 60u);
  EXPECT_EQ(counted + lost(KVM_EXITS_STAT_ADDRESSES_FULL), kPorts);
  EXPECT_EQ(probe_->losses().lost(), 0u) << "exits lose nothing by it";
  exit_with(30);
  EXPECT_EQ(count(kKvm, 30), 1u) << "addresses leave room for reasons";
}

TEST_F(VmxProbe, CountsReasonsBeyondItsTableAsLost) {
  load("vmx_6_1", Isa::vmx);
  constexpr std::uint32_t kReasons = KVM_EXITS_CELLS + 37;
  for (std::uint32_t i = 0; i < kReasons; ++i) exit_with(0x1000 + i);
  EXPECT_EQ(row().cells_used, KVM_EXITS_CELLS);
  EXPECT_EQ(lost(KVM_EXITS_STAT_CELLS_FULL), 37u);
}

TEST_F(VmxProbe, GivesEachThreadItsOwnRowAndCountsThoseBeyondTheTable) {
  bpf::KvmExitsOptions options;
  options.max_vcpus = 3;
  load("vmx_6_1", Isa::vmx, options);
  for (int i = 0; i < 5; ++i) std::thread([&] { exit_with(10); }).join();
  EXPECT_EQ(probe_->vcpus(), 3u);
  std::uint64_t counted = 0;
  probe_->visit([&](const kvm_exits_vcpu& row) { counted += row.cells[0].count; });
  EXPECT_EQ(counted, 3u);
  EXPECT_EQ(lost(KVM_EXITS_STAT_VCPUS_FULL), 2u);
}

TEST_F(VmxProbe, LeavesOtherProcessesAlone) {
  bpf::KvmExitsOptions options;
  options.all = false;
  options.pids = {1};
  load("vmx_6_1", Isa::vmx, options);
  exit_with(10);
  EXPECT_EQ(probe_->vcpus(), 0u);
  EXPECT_EQ(lost(KVM_EXITS_STAT_NOT_WATCHED), 1u);
  EXPECT_EQ(probe_->losses().lost(), 0u) << "what was not asked for is no loss";
}

TEST_F(VmxProbe, WatchesTheProcessThatWasAskedFor) {
  bpf::KvmExitsOptions options;
  options.all = false;
  options.pids = {static_cast<std::uint32_t>(::getpid())};
  load("vmx_6_1", Isa::vmx, options);
  exit_with(10);
  EXPECT_EQ(count(kKvm, 10), 1u);
}

class SvmProbe : public KvmExitsProbe {
 protected:
  template <class Vcpu, class Vmcb>
  void exit_with(std::uint64_t code) {
    memory_->as<Vcpu>().vmcb = reinterpret_cast<Vmcb*>(memory_->address(kVmcbAt));
    auto& field = memory_->as<Vmcb>(kVmcbAt).control.exit_code;
    field = static_cast<std::remove_reference_t<decltype(field)>>(code);
    exit();
  }
  void exit_with(std::uint64_t code) { exit_with<svm_6_1::vcpu_svm, svm_6_1::vmcb>(code); }
};

TEST_F(SvmProbe, CountsEveryReasonOfTheTableUnderItsOwnCode) {
  load("svm_6_1", Isa::svm);
  std::uint64_t rounds = 0;
  for (const kvm::ReasonName& reason : kvm::exit_reasons(kvm::Isa::svm)) {
    if (row().cells_used == KVM_EXITS_CELLS) load("svm_6_1", Isa::svm);
    rounds = rounds % 3 + 1;
    for (std::uint64_t i = 0; i < rounds; ++i) {
      exit_with(reason.code);
      entry();
    }
    ASSERT_EQ(count(kKvm, reason.code), rounds) << reason.name;
  }
}

TEST_F(SvmProbe, ReadsA64BitExitCode) {
  load("svm_u64", Isa::svm);
  const auto exit_64 = [&](std::uint64_t code) { exit_with<svm_u64::vcpu_svm, svm_u64::vmcb>(code); };
  for (int i = 0; i < 5; ++i) exit_64(0x400);
  exit_64(~std::uint64_t{0});
  EXPECT_EQ(count(kKvm, 0x400), 5u);
  EXPECT_EQ(count(kKvm, 0xffffffff), 1u) << "invalid guest state, as the classic tracepoint shows it";
}

TEST_F(SvmProbe, KeepsAnUnknownCodeAsANumber) {
  load("svm_6_1", Isa::svm);
  exit_with(0xf1);
  exit_with(0x401);
  EXPECT_EQ(count(kKvm, 0xf1), 1u);
  EXPECT_EQ(count(kKvm, 0x401), 1u);
}

TEST_F(SvmProbe, CountsAVcpuWithoutAVmcb) {
  load("svm_6_1", Isa::svm);
  memory_->as<svm_6_1::vcpu_svm>().vmcb = nullptr;
  exit();
  EXPECT_EQ(lost(KVM_EXITS_STAT_READ_FAILED), 1u);
}

class PvmProbe : public KvmExitsProbe {};

TEST_F(PvmProbe, ClocksTripsToQemuWithoutAnyKvmExit) {
  load("vmx_6_1", Isa::pvm);
  for (int i = 0; i < 11; ++i) {
    pio(true, 0x3f8);
    userspace_exit(2);
    busy_wait(100'000);
    fpu(1);
  }
  for (int i = 0; i < 7; ++i) {
    userspace_exit(2);
    busy_wait(100'000);
    fpu(1);
    pio(false, 0x64);
  }
  const kvm_exits_cell user = *cell(kUser, 2);
  EXPECT_EQ(user.count, 18u);
  EXPECT_GE(user.total_ns, 18 * 100'000u);
  EXPECT_EQ(cell(kPio, 0x3f8, 1)->timed, 11u);
  EXPECT_GE(cell(kPio, 0x3f8, 1)->total_ns, 11 * 100'000u);
  EXPECT_EQ(cell(kPio, 0x64, 0)->timed, 7u);
  EXPECT_GE(cell(kPio, 0x64, 0)->total_ns, 7 * 100'000u);
  EXPECT_EQ(row().hits[KVM_EXITS_PROBE_EXIT], 0u);
}

TEST_F(PvmProbe, IgnoresTheFpuBeingPutAway) {
  load("vmx_6_1", Isa::pvm);
  userspace_exit(2);
  fpu(0);
  EXPECT_EQ(cell(kUser, 2)->timed, 0u);
}

class ArmProbe : public KvmExitsProbe {};

TEST_F(ArmProbe, TakesTheExceptionClassOfATrapAndTheTypeOfAnythingElse) {
  load("vmx_6_1", Isa::arm64);
  for (int i = 0; i < 5; ++i) run("raw_kvm_exit", {2, 0x24, 0x1000});
  for (int i = 0; i < 3; ++i) run("raw_kvm_exit", {0, 0, 0x1000});
  EXPECT_EQ(count(kKvm, 0x24), 5u);
  EXPECT_EQ(count(kKvm, 0x100), 3u);
}

}  // namespace
}  // namespace vmwhy::test
