// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/proto/session.hpp"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <string>
#include <vector>

namespace vmwhy::qmp::proto {
namespace {

using Kind = Incoming::Kind;

const std::string kGreeting = R"({"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": ["oob"]}})"
                              "\r\n";
const std::string kOk = "{\"return\": {}, \"id\": 1}\r\n";

std::vector<Kind> feed(Session& session, std::string_view bytes, std::size_t piece = SIZE_MAX) {
  std::vector<Kind> out;
  while (!bytes.empty()) {
    std::string_view part = bytes.substr(0, piece);
    bytes.remove_prefix(part.size());
    while (const auto incoming = session.next(part, 1000, 2000)) out.push_back(incoming->kind);
  }
  return out;
}

Session ready_session() {
  Session session({});
  feed(session, kGreeting + kOk);
  session.take_output();
  return session;
}

TEST(QmpSession, NegotiatesByteByByte) {
  Session session({});
  EXPECT_EQ(session.phase(), Phase::greeting);
  EXPECT_EQ(feed(session, kGreeting, 1), std::vector<Kind>{Kind::greeting});
  EXPECT_EQ(session.phase(), Phase::negotiating);
  EXPECT_EQ(session.take_output(), "{\"execute\":\"qmp_capabilities\",\"id\":1}\n");
  EXPECT_EQ(session.take_output(), "");
  EXPECT_FALSE(session.may_send());
  EXPECT_EQ(feed(session, kOk, 1), std::vector<Kind>{Kind::negotiated});
  EXPECT_EQ(session.phase(), Phase::ready);
  EXPECT_TRUE(session.may_send());
  EXPECT_EQ(session.version().at("qemu").at("major").as_int64(), 7);
}

TEST(QmpSession, EnablesOutOfBandOnlyWhereItIsOffered) {
  Session offered({1000, true});
  feed(offered, kGreeting);
  EXPECT_NE(offered.take_output().find("\"enable\":[\"oob\"]"), std::string::npos);
  EXPECT_TRUE(offered.oob());
  Session old({1000, true});
  feed(old, "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\n");
  EXPECT_EQ(old.take_output().find("enable"), std::string::npos);
  EXPECT_FALSE(old.oob());
}

TEST(QmpSession, SaysNotQmpToWhatIsNoGreeting) {
  for (const char* first :
       {"QEMU 7.2.22 monitor - type 'help' for more information\r\n", "SSH-2.0-OpenSSH_9.2\r\n",
        "{\"return\": {}}\n", "{\"event\": \"STOP\"}\n", "{}\n"}) {
    Session session({});
    std::string_view bytes = first;
    const auto incoming = session.next(bytes, 0, 0);
    ASSERT_TRUE(incoming) << first;
    EXPECT_EQ(incoming->kind, Kind::not_qmp) << first;
    EXPECT_EQ(incoming->failure.code, Errc::not_qmp) << first;
    EXPECT_EQ(session.phase(), Phase::failed);
    EXPECT_TRUE(feed(session, kGreeting).empty());
  }
}

TEST(QmpSession, SaysNotQmpWhenNegotiationIsRefused) {
  Session session({});
  feed(session, kGreeting);
  std::string_view refusal = "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}}\n";
  const auto incoming = session.next(refusal, 0, 0);
  ASSERT_TRUE(incoming);
  EXPECT_EQ(incoming->kind, Kind::not_qmp);
  EXPECT_EQ(incoming->failure.peer_text, "no");
}

TEST(QmpSession, IsInStepAgainAfterGarbage) {
  Session session = ready_session();
  const std::string stream = "{\"event\": \"ST\xff\"}\r\n\x01\x02garbage{{{\n{\"event\": \"STOP\"}\r\n";
  EXPECT_EQ(feed(session, stream, 3), (std::vector<Kind>{Kind::unparsable, Kind::unparsable, Kind::event}));
  EXPECT_EQ(session.phase(), Phase::ready);
}

TEST(QmpSession, SkipsALineAboveTheLimit) {
  Session session({200, false});
  feed(session, kGreeting + kOk);
  EXPECT_EQ(feed(session, "{\"return\": \"" + std::string(300, 'a') + "\"}\n{\"event\": \"RESUME\"}\n"),
            (std::vector<Kind>{Kind::unparsable, Kind::event}));
}

TEST(QmpSession, DropsReplyWithUnknownId) {
  Session session = ready_session();
  std::uint64_t id = 0;
  session.send("query-status", {}, 10, 20, id);
  EXPECT_EQ(feed(session, "{\"return\": {}, \"id\": 99}\n{\"return\": {}, \"id\": {\"a\": 1}}\n"),
            (std::vector<Kind>{Kind::unexpected, Kind::unexpected}));
  EXPECT_EQ(session.router().dropped(), 2u);
  EXPECT_EQ(session.router().in_flight(), 1u);
  std::string_view reply = "{\"id\": 2, \"return\": {\"running\": true}}\n";
  const auto incoming = session.next(reply, 30, 0);
  ASSERT_TRUE(incoming);
  EXPECT_EQ(incoming->kind, Kind::reply);
  EXPECT_EQ(incoming->command.command, "query-status");
  EXPECT_EQ(incoming->command.sent_ns, 10u);
}

TEST(QmpSession, GivesAnErrorWithoutIdToTheOnlyCommandOutstanding) {
  Session session = ready_session();
  std::uint64_t id = 0;
  session.send("x", {}, 0, 0, id);
  std::string_view bytes = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n";
  const auto incoming = session.next(bytes, 0, 0);
  ASSERT_TRUE(incoming);
  EXPECT_EQ(incoming->kind, Kind::reply);
  EXPECT_EQ(incoming->command.id, id);
}

TEST(QmpSession, TakesEventsDuringNegotiationAndASecondGreetingAsNothing) {
  Session session({});
  EXPECT_EQ(feed(session, kGreeting + "{\"event\": \"STOP\"}\n" + kGreeting + kOk),
            (std::vector<Kind>{Kind::greeting, Kind::event, Kind::unexpected, Kind::negotiated}));
}

TEST(QmpSession, SurvivesAnEndAtEveryByte) {
  const std::string stream = kGreeting + kOk + "{\"event\": \"STOP\", \"data\": {\"x\": [1, 2]}}\r\n";
  for (std::size_t cut = 0; cut <= stream.size(); ++cut) {
    Session session({});
    const auto kinds = feed(session, stream.substr(0, cut), 5);
    const std::size_t lines =
        (cut >= kGreeting.size()) + (cut >= kGreeting.size() + kOk.size()) + (cut == stream.size());
    EXPECT_EQ(kinds.size(), lines) << cut;
  }
}

}  // namespace
}  // namespace vmwhy::qmp::proto
