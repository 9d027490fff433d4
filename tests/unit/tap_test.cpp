// SPDX-License-Identifier: BSD-2-Clause
// What a tap hides, and how it sums up.
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <string>

#include "tap/mask.hpp"
#include "tools/qmp-tap/summary.hpp"

namespace vmwhy {
namespace {

using qmp::proto::Conversation;
using qmp::proto::Direction;
using qmp::proto::Overheard;

std::string masked(Direction direction, const std::string& text) {
  std::string out;
  Conversation talk(true);
  talk.feed(direction, text, 1, [&](const Overheard& message) { out = tap::masked_json(message); });
  return out;
}

TEST(TapMask, HidesWhatOpensLocks) {
  for (
      const char* text :
      {R"({"execute":"set_password","arguments":{"protocol":"vnc","password":"hunter2"},"id":1})",
       R"({'execute':'set_password','arguments':{'protocol':'vnc','password':'hunter2'},'id':1})",
       R"({"execute":"change-vnc-password","arguments":{"password":"hunter2"}})",
       R"({"execute":"object-add","arguments":{"qom-type":"secret","id":"s","data":"hunter2"}})",
       R"({"execute":"object-add","arguments":{"qom-type":"secret","id":"s","props":{"data":"hunter2"}}})",
       R"({"execute":"blockdev-add","arguments":{"file":{"driver":"rbd","key":"hunter2"}}})",
       R"({"execute":"migrate","arguments":{"uri":"tcp://user:hunter2@host:1"}})",
       R"({"execute":"drive-mirror","arguments":{"target":"rbd:pool/x:id=a:key=hunter2:mon_host=b"}})",
       R"({"execute":"human-monitor-command","arguments":{"command-line":"set_password vnc hunter2"}})",
       R"({"execute":"human-monitor-command","arguments":{"command-line":"change vnc password hunter2"}})",
       R"({"execute":"human-monitor-command","arguments":{"command-line":"object_add secret,id=s,data=hunter2"}})"}) {
    const std::string out = masked(Direction::in, text);
    EXPECT_EQ(out.find("hunter2"), std::string::npos) << out;
    EXPECT_NE(out.find("***"), std::string::npos) << out;
  }
  EXPECT_EQ(
      masked(Direction::out, R"({"return": [{"file": "https://u:hunter2@h/x"}], "id": 1})").find("hunter2"),
      std::string::npos);
}

TEST(TapMask, LeavesTheRestAsItWasHeard) {
  for (const std::string text :
       {R"({"execute": "send-key",   "arguments": {"keys": [{"type": "qcode", "data": "ret"}]}})",
        R"({"execute":"query-block","id":"key=x"})",
        R"({"execute":"device_add","arguments":{"id":"a","mac":"52:54"}})"})
    EXPECT_EQ(masked(Direction::in, text), text);
}

TEST(TapLatencies, GivePercentilesWithinSixPercent) {
  qmp_tap::Latencies latencies;
  EXPECT_EQ(latencies.percentile_ns(0.5), 0u);
  for (std::uint64_t i = 1; i <= 100'000; ++i) latencies.add(i * 1000);
  for (const double share : {0.01, 0.5, 0.9, 0.99}) {
    const double exact = share * 1e8;
    EXPECT_NEAR(static_cast<double>(latencies.percentile_ns(share)), exact, exact * 0.06) << share;
  }
  EXPECT_EQ(latencies.max_ns(), 100'000'000u);
  EXPECT_LE(latencies.percentile_ns(1), latencies.max_ns());
  qmp_tap::Latencies extreme;
  for (const std::uint64_t ns : {std::uint64_t{0}, std::uint64_t{1}, UINT64_MAX}) extreme.add(ns);
  EXPECT_EQ(extreme.percentile_ns(1), UINT64_MAX);
  EXPECT_EQ(extreme.percentile_ns(0), 0u);
}

TEST(TapSummary, CountsByCommandWithoutEndForNobody) {
  qmp_tap::Summary summary;
  Overheard message;
  message.kind = Overheard::Kind::event;
  for (int i = 0; i < 5000; ++i) {
    message.event = "E" + std::to_string(i);
    summary.add(message);
  }
  EXPECT_LE(summary.events().size(), 513u);
  EXPECT_EQ(summary.messages(), 5000u);
}

}  // namespace
}  // namespace vmwhy
