// SPDX-License-Identifier: BSD-2-Clause
#include <gmock/gmock.h>
#include <sys/syscall.h>

#include "stalls/times.hpp"
#include "sym/kernel_symbols.hpp"
#include "tools/kvm-stalls/enrich.hpp"
#include "tools/kvm-stalls/model.hpp"
#include "tools/kvm-stalls/output.hpp"
#include "trace/record.hpp"

namespace vmwhy::stalls {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr std::uint64_t kMs = 1'000'000;

Stall made(State state, std::uint64_t ns) {
  Stall stall;
  stall.record.length_ns = ns;
  stall.times[static_cast<std::size_t>(state)] = ns;
  stall.record.role = static_cast<std::uint32_t>(trace::ThreadRole::vcpu);
  stall.record.vcpu = 1;
  stall.record.exit_code = UINT32_MAX;
  stall.record.user_code = stall.record.syscall = -1;
  return stall;
}

TEST(StallSentence, NamesWhoRanInstead) {
  Stall stall = made(State::waiting, 312 * kMs);
  stall.culprits = {{310 * kMs, 4712, 4711, "stress-ng"}};
  EXPECT_EQ(sentence(stall), "vCPU 1 was ready for 312 ms while stress-ng [4711] ran on CPU 0");
  stall.culprits = {{200 * kMs, 4712, 4711, "stress-ng"}, {100 * kMs, 5, 5, "x"}};
  EXPECT_EQ(
      sentence(stall),
      "vCPU 1 was ready for 312 ms while stress-ng [4711] ran for 200 ms of it, x [5] for 100 ms on CPU 0");
  stall.culprits = {{310 * kMs, 0, 0, "swapper/0"}};
  EXPECT_EQ(sentence(stall), "vCPU 1 was ready for 312 ms while CPU 0 was idle");
}

TEST(StallSentence, LeavesOutWhatTheHostSlept) {
  Stall stall = made(State::waiting, 300 * kMs);
  stall.record.length_ns = 5300 * kMs;
  stall.times[static_cast<std::size_t>(State::frozen)] = 5000 * kMs;
  stall.record.suspended_ns = 4990 * kMs;
  EXPECT_EQ(sentence(stall), "vCPU 1 was ready for 300 ms of 5.3 s; for 5 s the host slept");
  // Before Linux 6.1 it stands in D meanwhile.
  stall.times[static_cast<std::size_t>(State::disk)] = 4990 * kMs;
  stall.times[static_cast<std::size_t>(State::frozen)] = 0;
  EXPECT_THAT(sentence(stall), HasSubstr("was ready for 300 ms"));
}

TEST(StallSentence, NamesSystemCallFileAndFunction) {
  Stall stall = made(State::disk, 2000 * kMs);
  stall.call = "pread64";
  stall.descriptor = "/images/web1.raw";
  stall.kernel_stack = {"folio_wait_bit_common+0x13d"};
  stall.record.flags = trace::kStallOngoing;
  EXPECT_EQ(
      sentence(stall),
      "vCPU 1 was blocked in D for 2 s in pread64 of /images/web1.raw, in folio_wait_bit_common, and still "
      "does not get on");
}

TEST(StallSentence, SaysThatItWasForAPage) {
  Stall stall = made(State::blocked, 2000 * kMs);
  stall.kernel_stack = {"handle_userfault+0x37c", "do_anonymous_page+0x2c", "handle_mm_fault+0xd9"};
  EXPECT_EQ(
      sentence(stall),
      "vCPU 1 was blocked for 2 s in handle_userfault, for a page of its memory that somebody has to bring "
      "(userfaultfd)");
  stall = made(State::disk, 2000 * kMs);
  stall.kernel_stack = {"folio_wait_bit_common+0x13d", "filemap_fault+0x2c", "handle_mm_fault+0xd9"};
  EXPECT_EQ(sentence(stall),
            "vCPU 1 was blocked in D for 2 s in folio_wait_bit_common, for a page of its memory");
}

TEST(StallSentence, TellsAVcpuThatStandsForAPageFromOneThatIsHalted) {
  Stall stall = made(State::blocked, 300 * kMs);
  stall.kernel_stack = {"kvm_vcpu_block+0x4c", "kvm_arch_vcpu_ioctl_run+0x95e"};
  stall.record.isa = 2;
  stall.record.exit_code = 0x400;
  EXPECT_EQ(sentence(stall), "vCPU 1 was blocked for 300 ms in kvm_vcpu_block, for a page of its memory");
  stall.record.exit_code = 0x78;
  EXPECT_EQ(sentence(stall), "vCPU 1 was blocked for 300 ms in kvm_vcpu_block");
}

TEST(StallSentence, SaysOfHowMuchItWasAPart) {
  Stall stall = made(State::throttled, 80 * kMs);
  stall.record.length_ns = 100 * kMs;
  EXPECT_THAT(sentence(stall), HasSubstr("quota for 80 ms of 100 ms"));
}

TEST(StallSentence, EscapesWhatOthersNamed) {
  Stall stall = made(State::waiting, 20 * kMs);
  stall.culprits = {{20 * kMs, 5, 5, "a\x1b[31m"}};
  EXPECT_THAT(sentence(stall), Not(HasSubstr("\x1b")));
}

TEST(StallText, SurvivesARecord) {
  Stall stall = made(State::waiting, 20 * kMs);
  stall.comm = "CPU 1/KVM";
  stall.call = "futex";
  stall.culprits = {{3, 4, 5, "with space"}, {1, 0, 0, "swapper/0"}};
  stall.kernel_stack = {"a+0x1", "b+0x2"};
  stall.record.times = from_array(stall.times);
  const Stall back = take_apart(1000 * kMs, stall.record, stall_text(stall));
  EXPECT_EQ(back.comm, "CPU 1/KVM");
  EXPECT_EQ(back.call, "futex");
  EXPECT_EQ(back.times, stall.times);
  ASSERT_EQ(back.culprits.size(), 2u);
  EXPECT_EQ(back.culprits[0].comm, "with space");
  EXPECT_EQ(back.culprits[0].ns, 3u);
  EXPECT_EQ(back.culprits[0].tid, 4u);
  EXPECT_EQ(back.culprits[0].pid, 5u);
  EXPECT_THAT(back.kernel_stack, ElementsAre("a+0x1", "b+0x2"));
  EXPECT_EQ(back.begin_ns(), 980 * kMs);
}

TEST(StallText, KeepsFramesOfQemuAndWhoHeldTheLock) {
  Stall stall = made(State::lock, 2000 * kMs);
  stall.user_stack = {{"__lll_lock_wait+0x1c", "aa11", 0x8001c},
                      {"qemu_mutex_lock_iothread_impl+0x40", "bb22", 0x5d58a0},
                      {"qemu-system-x86_64+0x97dcfe", "", 0x97dcfe}};
  stall.lock_owner = "vCPU 0";
  stall.record.lock_owner = 4250;
  stall.record.times = from_array(stall.times);
  const Stall back = take_apart(2000 * kMs, stall.record, stall_text(stall));
  ASSERT_EQ(back.user_stack.size(), 3u);
  EXPECT_EQ(back.user_stack[1].name, "qemu_mutex_lock_iothread_impl+0x40");
  EXPECT_EQ(back.user_stack[1].build_id, "bb22");
  EXPECT_EQ(back.user_stack[1].address, 0x5d58a0u);
  EXPECT_EQ(back.lock_owner, "vCPU 0");
  EXPECT_EQ(join_functions(back.user_stack, 8),
            "__lll_lock_wait < qemu_mutex_lock_iothread_impl < qemu-system-x86_64+0x97dcfe");
  EXPECT_EQ(sentence(back),
            "vCPU 1 waited for QEMU's big lock for 2 s, held by vCPU 0 when it began to wait");
  Stall other = back;
  other.user_stack.erase(other.user_stack.begin() + 1);
  EXPECT_THAT(sentence(other), HasSubstr("waited for a lock for 2 s"));
}

TEST(UserFrames, AnyTextIsSafe) {
  EXPECT_THAT(parse_frames(""), IsEmpty());
  const auto frames = parse_frames("a\n\tb\nc\t+0x\nd\tee+0xzz\nf+0x1\tab+0xffffffffffffffffff\n");
  ASSERT_EQ(frames.size(), 5u);
  EXPECT_EQ(frames[0].function(), "a");
  EXPECT_EQ(frames[3].build_id, "ee");
  EXPECT_EQ(frames[3].address, 0u);
}

TEST(Culprits, AnyTextIsSafe) {
  EXPECT_THAT(parse_culprits(""), IsEmpty());
  EXPECT_THAT(parse_culprits("x\n1\n1 2\n1 2 3\n-1 2 3 c\n99999999999999999999 1 1 c\n"), IsEmpty());
  EXPECT_EQ(parse_culprits("1 2 3 \n").size(), 1u);
}

TEST(KernelSymbols, FindsTheFunctionAnAddressIsIn) {
  const auto symbols = sym::KernelSymbols::parse(
      "ffffffff81000100 T schedule\nffffffff81000000 t __schedule\nffffffff81000200 d data\ngarbage\n"
      "ffffffffc0000000 t xfs_read\t[xfs]\n0000000000000000 T hidden\n");
  EXPECT_EQ(symbols.size(), 3u);
  EXPECT_EQ(symbols.name(0xffffffff81000110), "schedule+0x10");
  EXPECT_EQ(symbols.name(0xffffffffc0000003), "xfs_read+0x3");
  EXPECT_EQ(symbols.name(0x10), "0x10");
  EXPECT_THAT(sym::below_schedule(symbols, {0xffffffff81000001, 0xffffffff81000101, 0xffffffffc0000003, 0}),
              ElementsAre("xfs_read+0x3"));
  EXPECT_THAT(sym::below_schedule(symbols, {0xffffffffc0000003}), ElementsAre("xfs_read+0x3"));
}

}  // namespace
}  // namespace vmwhy::stalls

namespace vmwhy::kvm_stalls {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

stalls_thread row_of(std::uint64_t since_ns, std::uint32_t state) {
  stalls_thread row{};
  row.pid_tgid = std::uint64_t{42} << 32 | 43;
  row.since_ns = since_ns;
  row.state = state;
  return row;
}

TEST(StallWindows, AreDifferencesThatAddUp) {
  stalls_thread row = row_of(1000, STALLS_RUNNING);
  row.ns[STALLS_IDLE] = 400;
  row.culprits[0] = {.tid = 7, .tgid = 7, .comm = "a", .ns = 50};
  const Counted before = count(row, 1100);
  row.ns[STALLS_RUNNING] = 500;
  row.ns[STALLS_WAITING] = 300;
  row.since_ns = 1800;
  row.state = STALLS_IDLE;
  row.culprits[0].ns = 350;
  const Share share = between({}, before, count(row, 2100));
  EXPECT_EQ(share.window_ns, 1000u);
  EXPECT_EQ(stalls::sum(share.times), 1000u);
  EXPECT_EQ(share.error(), 0);
  EXPECT_EQ(share.times[STALLS_IDLE], 300u);
  EXPECT_EQ(share.times[STALLS_RUNNING], 400u);
  ASSERT_EQ(share.culprits.size(), 1u);
  EXPECT_EQ(share.culprits[0].ns, 300u);
}

TEST(StallWindows, TellWhenSharesDoNotAddUp) {
  Report report;
  report.threads.emplace_back();
  report.threads[0].window_ns = 1000;
  report.threads[0].times[STALLS_GUEST] = 998;
  ASSERT_EQ(errors_of(report).size(), 1u);
  EXPECT_THAT(errors_of(report)[0], HasSubstr("99.80 % instead of 100 %"));
  report.threads[0].times[STALLS_KVM] = 1;
  EXPECT_THAT(errors_of(report), IsEmpty());
}

TEST(StallWindows, EndWhereTheThreadEnded) {
  stalls_thread row = row_of(1500, STALLS_STATES);
  row.ns[STALLS_IDLE] = 500;
  const Share share = between({}, Counted{.time_ns = 1000}, count(row, 9000));
  EXPECT_EQ(share.window_ns, 500u);
  EXPECT_EQ(share.error(), 0);
}

TEST(OngoingStall, AddsThePresentSleep) {
  stalls_thread row = row_of(2000, STALLS_DISK);
  row.stall.begin_ns = 1000;
  row.stall.dirty = 1;
  row.stall.ns[STALLS_KVM] = 1000;
  row.block.syscall = 17;
  row.block.state = STALLS_DISK;
  const Seen seen = make_ongoing({}, row, 5000);
  EXPECT_TRUE(seen.stall.ongoing());
  EXPECT_EQ(seen.stall.record.length_ns, 4000u);
  EXPECT_EQ(stalls::sum(seen.stall.times), 4000u);
  EXPECT_EQ(seen.stall.record.block_ns, 3000u);
  EXPECT_EQ(seen.stall.record.syscall, 17);
  // Sums of an earlier stall that were not wiped yet are not this one's.
  row.stall.dirty = 0;
  row.stall.begin_ns = 2000;
  EXPECT_EQ(stalls::sum(make_ongoing({}, row, 5000).stall.times), 3000u);
}

TEST(SystemCalls, AreNamed) {
  EXPECT_EQ(system_call_name(-1), "");
  EXPECT_EQ(system_call_name(4095), "syscall 4095");
  EXPECT_EQ(system_call_name(static_cast<std::int32_t>(SYS_pread64)), "pread64");
  EXPECT_TRUE(takes_descriptor(static_cast<std::int32_t>(SYS_pread64)));
  EXPECT_FALSE(takes_descriptor(static_cast<std::int32_t>(SYS_futex)));
}

}  // namespace
}  // namespace vmwhy::kvm_stalls
