// SPDX-License-Identifier: BSD-2-Clause
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>

#include "clock/clock.hpp"
#include "core/unique_fd.hpp"
#include "host/kmsg.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::host {
namespace {

using namespace std::chrono_literals;

TEST(HostKmsg, ParsesARecordAndDropsItsDictionary) {
  const auto line =
      parse_kmsg("30,1234,5678901,-,caller=T1;I/O error\\x0a\\xe2\\x82\\xac, dev sda\n SUBSYSTEM=block\n");
  ASSERT_TRUE(line);
  EXPECT_EQ(line->severity, 6u);
  EXPECT_EQ(line->sequence, 1234u);
  EXPECT_EQ(line->stamp_us, 5678901u);
  EXPECT_EQ(line->text, "I/O error\n\xe2\x82\xac, dev sda");
}

TEST(HostKmsg, RefusesWhatIsNoRecord) {
  for (const char* text : {"", ";", "1,2;x", "a,b,c;x", "1,2,3"}) EXPECT_FALSE(parse_kmsg(text)) << text;
  EXPECT_EQ(parse_kmsg("1,2,3,-;\\x")->text, "\\x");
  EXPECT_EQ(parse_kmsg("1,2,3,-;\\xzz")->text, "\\xzz");
}

TEST(HostKmsgClock, TrustsTheStampUntilALiveLineShowsTheDistance) {
  KmsgClock clock;
  constexpr std::uint64_t kSleep = 100'000'000'000;  // BOOTTIME is 100 s ahead of MONOTONIC.
  EXPECT_EQ(clock.to_boottime(5'000'000, 110'000'000'000, kSleep, false), 105'000'000'000u);
  // Waited for: stamped 5.0 s, arrived when MONOTONIC said 8.0 s: the log's clock is 3 s behind.
  EXPECT_EQ(clock.to_boottime(5'000'000, 108'000'000'000, kSleep, true), 108'000'000'000u);
  // The next one was delivered 0.5 s late: its stamp, moved by the 3 s, says when it was written.
  EXPECT_EQ(clock.to_boottime(6'000'000, 109'500'000'000, kSleep, true), 109'000'000'000u);
}

TEST(HostKmsgClock, NeverLaterThanTheArrival) {
  KmsgClock clock;
  EXPECT_EQ(clock.to_boottime(9'000'000, 8'000'000'000, 0, false), 8'000'000'000u);
}

TEST(HostKmsg, DeviceThatIsMissingOrNoLogIsAFailureWithARemedy) {
  boost::asio::io_context io;
  const auto missing = Kmsg::open(
      io, [](const trace::OwnedRecord&) {}, "/nonexistent/kmsg");
  ASSERT_FALSE(missing);
  EXPECT_FALSE(missing.error().remedy.empty());
  const test::TempDir dir;
  EXPECT_FALSE(Kmsg::open(
      io, [](const trace::OwnedRecord&) {}, dir.write("file", "x")));
}

TEST(HostKmsg, FollowsTheLogOfThisKernel) {
  VMWHY_NEEDS(kmsg);
  boost::asio::io_context io;
  std::vector<trace::OwnedRecord> records;
  const std::uint64_t begin = clock::now_ns();
  auto kmsg = Kmsg::open(io, [&](const trace::OwnedRecord& record) { records.push_back(record); });
  ASSERT_TRUE(kmsg) << to_string(kmsg.error());
  for (const auto& record : records) EXPECT_GE(record.header.time_ns + 2'000'000'000, begin);
  const std::string mark = "vmwhy test line " + std::to_string(::getpid());
  const UniqueFd fd(::open("/dev/kmsg", O_WRONLY | O_CLOEXEC));
  if (!fd) GTEST_SKIP() << "needs kmsg: not writable";
  // A line without its end is kept back until the next one.
  ASSERT_GT(::write(fd.get(), (mark + "\n").data(), mark.size() + 1), 0);
  const auto deadline = test::deadline_in();
  const auto found = [&] {
    for (const auto& record : records)
      if (record.text == mark) return true;
    return false;
  };
  while (!found() && std::chrono::steady_clock::now() < deadline) {
    io.restart();
    io.run_for(10ms);
  }
  ASSERT_TRUE(found());
  EXPECT_GE(records.back().header.time_ns + 1'000'000'000, begin);
  EXPECT_LE(records.back().header.time_ns, clock::now_ns());
}

}  // namespace
}  // namespace vmwhy::host
