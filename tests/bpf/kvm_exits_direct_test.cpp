// SPDX-License-Identifier: BSD-2-Clause
// The probe kvm_exits where it reads the reason without a helper's call: every layout gives the same codes.

#include "tests/bpf/fixture.hpp"

namespace vmwhy::test {
namespace {

using bpf::Isa;
constexpr auto kKvm = KVM_EXITS_KIND_KVM;
constexpr std::size_t kVmcbAt = 1024;

class DirectReads : public KvmExitsProbe {
 protected:
  void SetUp() override {
    VMWHY_NEEDS(bpf_casts);
    KvmExitsProbe::SetUp();
    direct_ = true;
  }

  template <class Vcpu, class Vmcb>
  void exit_with(std::uint64_t code) {
    memory_->as<Vcpu>().vmcb = reinterpret_cast<Vmcb*>(memory_->address(kVmcbAt));
    auto& field = memory_->as<Vmcb>(kVmcbAt).control.exit_code;
    field = static_cast<std::remove_reference_t<decltype(field)>>(code);
    exit();
  }
};

TEST_F(DirectReads, OfAmd) {
  load("svm_6_1", Isa::svm);
  memory_->as<svm_6_1::vmcb>(kVmcbAt).control.exit_code_hi = 0xffffffff;
  for (int i = 0; i < 3; ++i) exit_with<svm_6_1::vcpu_svm, svm_6_1::vmcb>(0x7b);
  exit_with<svm_6_1::vcpu_svm, svm_6_1::vmcb>(0xffffffff);
  EXPECT_EQ(count(kKvm, 0x7b), 3u);
  EXPECT_EQ(count(kKvm, 0xffffffff), 1u);
  EXPECT_EQ(probe_->losses().lost(), 0u);
}

TEST_F(DirectReads, OfAmdWith64Bits) {
  load("svm_u64", Isa::svm);
  for (int i = 0; i < 5; ++i) exit_with<svm_u64::vcpu_svm, svm_u64::vmcb>(0x400);
  exit_with<svm_u64::vcpu_svm, svm_u64::vmcb>(~std::uint64_t{0});
  EXPECT_EQ(count(kKvm, 0x400), 5u);
  EXPECT_EQ(count(kKvm, 0xffffffff), 1u);
}

TEST_F(DirectReads, CountAVcpuWithoutAVmcb) {
  load("svm_6_1", Isa::svm);
  memory_->as<svm_6_1::vcpu_svm>().vmcb = nullptr;
  exit();
  EXPECT_EQ(lost(KVM_EXITS_STAT_READ_FAILED), 1u);
  EXPECT_EQ(row().cells_used, 0u);
}

TEST_F(DirectReads, OfIntel) {
  load("vmx_6_1", Isa::vmx);
  memory_->as<vmx_6_1::vcpu_vmx>().exit_reason.full = 0x80000021;
  for (int i = 0; i < 2; ++i) exit();
  EXPECT_EQ(count(kKvm, 0x80000021), 2u);
}

TEST_F(DirectReads, OfIntelSince616) {
  load("vmx_6_16", Isa::vmx);
  memory_->as<vmx_6_16::vcpu_vmx>().vt.exit_reason.full = 48;
  for (int i = 0; i < 7; ++i) exit();
  EXPECT_EQ(count(kKvm, 48), 7u);
}

TEST_F(DirectReads, CannotBeWhereTheKernelHasNoSuchType) {
  load("svm_6_1", Isa::vmx);
  exit();
  EXPECT_EQ(lost(KVM_EXITS_STAT_READ_FAILED), 1u);
}

}  // namespace
}  // namespace vmwhy::test
