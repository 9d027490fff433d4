// SPDX-License-Identifier: BSD-2-Clause
#include "kvm/reasons.hpp"
#include "kvm/vcpu_numbers.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>

namespace vmwhy::kvm {
namespace {

TEST(KvmReasons, MasksTheBasicReasonAndNamesTheFailedEntry) {
  EXPECT_EQ(exit_reason_name(Isa::vmx, 48), "EPT_VIOLATION");
  EXPECT_EQ(exit_reason_name(Isa::vmx, 0x80000021), "INVALID_STATE FAILED_VMENTRY");
  EXPECT_EQ(exit_reason_name(Isa::vmx, 0x08000030), "EPT_VIOLATION 0x8000000");
}

TEST(KvmReasons, ShowsUnknownCodesAsNumbers) {
  EXPECT_EQ(exit_reason_name(Isa::vmx, 1234), "1234");
  EXPECT_EQ(exit_reason_name(Isa::svm, 0x123), "0x123");
  EXPECT_EQ(exit_reason_name(Isa::pvm, 12), "0xc");
  EXPECT_EQ(userspace_reason_name(999), "KVM_EXIT 999");
  EXPECT_EQ(userspace_reason_name(-9999), "errno 9999");
  EXPECT_EQ(internal_error_name(77), "suberror 77");
  EXPECT_EQ(internal_error_name(0x100000001), "suberror 4294967297");
}

TEST(KvmReasons, NeverMixesTheTablesOfTwoVendors) {
  EXPECT_EQ(exit_reason_name(Isa::vmx, 0x78), "120");
  EXPECT_EQ(exit_reason_name(Isa::svm, 0x78), "hlt");
  EXPECT_EQ(exit_reason_name(Isa::svm, 0xffffffff), "invalid_guest_state");
  EXPECT_EQ(exit_reason_name(Isa::arm64, 0x24), "DABT_LOW");
  EXPECT_EQ(exit_reason_name(Isa::arm64, 0x100), "IRQ");
}

TEST(KvmReasons, KnowsHalts) {
  EXPECT_TRUE(is_halt(Isa::vmx, 12));
  EXPECT_TRUE(is_halt(Isa::svm, 0x78));
  EXPECT_TRUE(is_halt(Isa::arm64, 1));
  EXPECT_FALSE(is_halt(Isa::vmx, 0x78));
  EXPECT_FALSE(is_halt(Isa::svm, 12));
  EXPECT_TRUE(is_userspace_halt(5));
}

TEST(KvmReasons, NamesErrnosOfKvmRun) {
  EXPECT_EQ(userspace_reason_name(-EINTR), "EINTR");
  EXPECT_EQ(userspace_reason_name(17), "KVM_EXIT_INTERNAL_ERROR");
  EXPECT_EQ(internal_error_name(1), "KVM_INTERNAL_ERROR_EMULATION");
}

TEST(KvmReasons, TablesAreSortedAndWithoutDoubles) {
  for (const Isa isa : {Isa::vmx, Isa::svm, Isa::arm64}) {
    const auto table = exit_reasons(isa);
    EXPECT_TRUE(std::is_sorted(table.begin(), table.end(),
                               [](const ReasonName& a, const ReasonName& b) { return a.code <= b.code; }));
  }
}

TEST(MissingVcpus, AreNamedBesideThoseThatAreThere) {
  EXPECT_EQ(missing_vcpus({0, 1, 2, 3}, {7}), "no vCPU 7 here: there are 0 to 3");
  EXPECT_EQ(missing_vcpus({0}, {0, 5, 6, 7, 9}), "no vCPU 5 to 7, 9 here: there is only 0");
  EXPECT_EQ(missing_vcpus({0, 1}, {4, 1}), "no vCPU 4 here: there are 0, 1");
  EXPECT_EQ(missing_vcpus({0, 1}, {1}), "");
  EXPECT_EQ(missing_vcpus({}, {1}), "") << "nothing is known";
}

}  // namespace
}  // namespace vmwhy::kvm
