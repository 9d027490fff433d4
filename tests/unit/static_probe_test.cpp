// SPDX-License-Identifier: BSD-2-Clause
// Where arguments of static probes are, as assemblers write it.

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "sym/static_probe.hpp"
#include "sym/unwind.hpp"

namespace vmwhy::test {
namespace {

using sym::ProbeArgument;

/// Registers that hold 0x1000 and their number; the stack begins where the last one points to.
class Process {
 public:
#if defined(__x86_64__)
  static constexpr std::size_t kRegisters = 16, kSp = 7;
#else
  static constexpr std::size_t kRegisters = 32, kSp = 31;
#endif
  Process() {
    for (std::size_t i = 0; i < kRegisters; ++i) registers_[i] = 0x8765432100001000 + i;
    for (std::size_t i = 0; i < stack_.size(); ++i) stack_[i] = static_cast<std::byte>(i + 0x80);
    snapshot_ = {0, registers_[kSp], registers_, stack_};
  }
  std::optional<std::uint64_t> value(const std::string& operand) const {
    const auto arguments = sym::parse_probe_arguments(operand);
    EXPECT_EQ(arguments.size(), 1U) << operand;
    return arguments.empty() ? std::nullopt : sym::value_of(arguments[0], snapshot_);
  }

 private:
  std::array<std::uint64_t, kRegisters> registers_{};
  std::array<std::byte, 64> stack_{};
  sym::Snapshot snapshot_;
};

constexpr std::uint64_t kTop = 0x8765432100001000;

#if defined(__x86_64__)
TEST(StaticProbe, ReadsRegisters) {
  const Process process;
  EXPECT_EQ(process.value("8@%rax"), kTop);
  EXPECT_EQ(process.value("8@%rdx"), kTop + 1);
  EXPECT_EQ(process.value("-4@%edi"), 0x1005U);
  EXPECT_EQ(process.value("4@%r9d"), 0x1009U);
  EXPECT_EQ(process.value("8@%r15"), kTop + 15);
  EXPECT_EQ(process.value("2@%r10w"), 0x100aU);
  EXPECT_EQ(process.value("1@%sil"), 4U);
  EXPECT_EQ(process.value("1@%r12b"), 12U);
  EXPECT_EQ(process.value("-8@%rbp"), kTop + 6);
}

TEST(StaticProbe, ReadsNumbers) {
  const Process process;
  EXPECT_EQ(process.value("-4@$3"), 3U);
  EXPECT_EQ(process.value("-4@$-3"), static_cast<std::uint64_t>(-3));
  EXPECT_EQ(process.value("4@$-1"), 0xffffffffU);
  EXPECT_EQ(process.value("8@$0x10"), 16U);
  EXPECT_EQ(process.value("8@$18446744073709551615"), ~0ULL);
}

TEST(StaticProbe, ReadsTheStack) {
  const Process process;
  EXPECT_EQ(process.value("8@(%rsp)"), 0x8786858483828180U);
  EXPECT_EQ(process.value("4@8(%rsp)"), 0x8b8a8988U);
  EXPECT_EQ(process.value("-4@8(%rsp)"), 0xffffffff8b8a8988U);
  EXPECT_EQ(process.value("2@-5(%r12)"), 0x8180U);
  EXPECT_EQ(process.value("8@56(%rsp)"), 0xbfbebdbcbbbab9b8U);
}

TEST(StaticProbe, DoesNotGuess) {
  const Process process;
  for (const char* operand : {"8@57(%rsp)",
                              "8@-1(%rsp)",
                              "8@(%rax)",
                              "-4@current_run_state(%rip)",
                              "8@8(%rax,%rbx,8)",
                              "8@%xmm0",
                              "4@%ah",
                              "8@%r16",
                              "8@%r7",
                              "8@%",
                              "8@(%eax)",
                              "8@$",
                              "8@$12x",
                              "3@%rax",
                              "0@%rax",
                              "@%rax",
                              "8@",
                              "8",
                              "nonsense",
                              "-4@4",
                              "8@)",
                              "8@(",
                              "99999999999999999999@%rax"})
    EXPECT_EQ(process.value(operand), std::nullopt) << operand;
}

TEST(StaticProbe, KeepsEachArgumentInItsPlace) {
  const auto arguments =
      sym::parse_probe_arguments("-4@%eax  8@foo(%rip) -4@-24(%rbp) 8@8(%rax, %rbx, 8) 8@$7 ");
  ASSERT_EQ(arguments.size(), 5U);
  using Where = ProbeArgument::Where;
  EXPECT_EQ(arguments[0].where, Where::in_register);
  EXPECT_EQ(arguments[1].where, Where::unknown);
  EXPECT_EQ(arguments[2].where, Where::in_memory);
  EXPECT_EQ(arguments[2].number, -24);
  EXPECT_EQ(arguments[3].where, Where::unknown);
  EXPECT_EQ(arguments[4].where, Where::constant);
}
#else
TEST(StaticProbe, ReadsRegistersNumbersAndTheStack) {
  const Process process;
  EXPECT_EQ(process.value("8@x0"), kTop);
  EXPECT_EQ(process.value("-4@w19"), 0x1013U);
  EXPECT_EQ(process.value("-4@-3"), static_cast<std::uint64_t>(-3));
  EXPECT_EQ(process.value("8@[sp]"), 0x8786858483828180U);
  EXPECT_EQ(process.value("4@[sp, 8]"), 0x8b8a8988U);
  EXPECT_EQ(process.value("8@[x0]"), std::nullopt);
  EXPECT_EQ(process.value("8@x31"), std::nullopt);
}

TEST(StaticProbe, KeepsEachArgumentInItsPlace) {
  const auto arguments = sym::parse_probe_arguments("-4@w0 8@[x1, x2] -4@[sp, 24] 8@7");
  ASSERT_EQ(arguments.size(), 4U);
  EXPECT_EQ(arguments[1].where, ProbeArgument::Where::unknown);
  EXPECT_EQ(arguments[2].number, 24);
}
#endif

TEST(StaticProbe, EndsSomewhere) {
  std::string many;
  for (int i = 0; i < 1000; ++i) many += "8@nothing ";
  EXPECT_LE(sym::parse_probe_arguments(many).size(), 16U);
  EXPECT_TRUE(sym::parse_probe_arguments("").empty());
  EXPECT_TRUE(sym::parse_probe_arguments("   ").empty());
}

}  // namespace
}  // namespace vmwhy::test
