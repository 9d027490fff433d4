// SPDX-License-Identifier: BSD-2-Clause
// Hearing a conversation that others hold: objects cut out of bytes, replies matched with commands, gaps.
#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>
#include <string>
#include <vector>

#include "qmp/proto/command_message.hpp"
#include "qmp/proto/conversation.hpp"
#include "qmp/proto/message.hpp"

namespace vmwhy::qmp::proto {
namespace {

using Kind = Overheard::Kind;

std::vector<std::string> cut(std::string_view stream, std::size_t piece, std::size_t* skipped = nullptr,
                             std::size_t max = 1000) {
  ObjectSplitter splitter(max);
  std::vector<std::string> out;
  while (!stream.empty()) {
    std::string_view part = stream.substr(0, piece);
    stream.remove_prefix(part.size());
    while (const auto found = splitter.next(part))
      out.push_back((found->is_object ? "" : "?") + std::string(found->text));
  }
  if (skipped) *skipped = splitter.take_skipped();
  return out;
}

TEST(QmpObjectSplitter, CutsTheSameObjectsFromPiecesOfAnySize) {
  const std::string stream =
      "{\"a\": \"}\\\"{\"}{'b': '\"}', \"c\": [{}]}\r\n {\n  \"pretty\": {\n  }\n}\nno object\n{\"d\":1}";
  const std::vector<std::string> wanted = {"{\"a\": \"}\\\"{\"}", "{'b': '\"}', \"c\": [{}]}",
                                           "{\n  \"pretty\": {\n  }\n}", "?no object", "{\"d\":1}"};
  for (std::size_t piece = 1; piece <= stream.size(); ++piece) EXPECT_EQ(cut(stream, piece), wanted) << piece;
}

TEST(QmpObjectSplitter, ForgetsAnObjectWhenTheClientResetsTheParser) {
  std::size_t skipped = 0;
  for (const std::size_t piece : {1u, 3u, 100u}) {
    EXPECT_EQ(cut("{\"half\": [\xff{\"whole\":1}", piece, &skipped),
              std::vector<std::string>{"{\"whole\":1}"});
    EXPECT_EQ(skipped, 10u);
  }
}

TEST(QmpObjectSplitter, PassesOverAnObjectAboveTheLimitAndIsInStepAfterIt) {
  const std::string big = "{\"x\": \"" + std::string(5000, 'y') + "{\"}";
  for (const std::size_t piece : {1u, 64u, 10000u}) {
    std::size_t skipped = 0;
    EXPECT_EQ(cut(big + "\r\n{\"a\":1}\r\n", piece, &skipped), std::vector<std::string>{"{\"a\":1}"})
        << piece;
    EXPECT_GE(skipped, big.size());
  }
}

TEST(QmpCommand, IsReadInBothSortsOfQuotes) {
  const auto command = parse_command("{'exec-oob': 'x', 'arguments': {'a': 'it\\'s \"b\"'}, 'id': 'i'}");
  ASSERT_TRUE(command);
  EXPECT_EQ(command->name, "x");
  EXPECT_TRUE(command->out_of_band);
  EXPECT_EQ(command->arguments.at("a").as_string(), "it's \"b\"");
  EXPECT_EQ(command->id.as_string(), "i");
  EXPECT_FALSE(parse_command("{\"return\": {}}"));
  EXPECT_FALSE(parse_command("{\"execute\": 5}"));
}

struct Heard {
  std::vector<Overheard> all;
  std::vector<std::string> json;
  Conversation::Sink sink() {
    return [this](const Overheard& message) {
      all.push_back(message);
      json.emplace_back(message.json);
    };
  }
};

TEST(QmpConversation, MatchesRepliesWithTheirCommandsAndTellsTheLatency) {
  Heard heard;
  Conversation talk(true);
  talk.feed(Direction::out, "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n", 1, heard.sink());
  talk.feed(Direction::in, "{\"execute\":\"qmp_capabilities\"}", 10, heard.sink());
  talk.feed(Direction::out, "{\"return\": {}}\r\n", 15, heard.sink());
  talk.feed(Direction::in,
            "{\"execute\":\"slow\",\"id\":\"libvirt-1\"}\r\n{\"exec-oob\":\"fast\",\"id\":{\"n\":2}}\r\n", 20,
            heard.sink());
  ASSERT_EQ(talk.unanswered().size(), 2u);
  EXPECT_EQ(talk.unanswered()[0].command, "slow");
  talk.feed(Direction::out, "{\"return\": 5, \"id\": {\"n\": 2}}\r\n", 30, heard.sink());
  talk.feed(
      Direction::out,
      "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"STOP\", \"data\": {\"a\": 1}}\r\n",
      40, heard.sink());
  talk.feed(Direction::out,
            "{\"id\": \"libvirt-1\", \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\r\n", 120,
            heard.sink());
  ASSERT_EQ(heard.all.size(), 8u);
  EXPECT_EQ(heard.all[0].kind, Kind::greeting);
  EXPECT_EQ(heard.all[1].kind, Kind::command);
  EXPECT_EQ(heard.all[2].command, "qmp_capabilities");
  EXPECT_EQ(heard.all[2].sent_ns, 10u);
  EXPECT_TRUE(heard.all[4].out_of_band);
  EXPECT_EQ(heard.all[5].kind, Kind::reply);
  EXPECT_EQ(heard.all[5].command, "fast");
  EXPECT_EQ(heard.all[6].kind, Kind::event);
  EXPECT_EQ(heard.all[6].event, "STOP");
  EXPECT_EQ(heard.all[6].wall_us, 1'000'002);
  EXPECT_EQ(heard.all[7].kind, Kind::error);
  EXPECT_EQ(heard.all[7].command, "slow");
  EXPECT_EQ(heard.all[7].time_ns - heard.all[7].sent_ns, 100u);
  EXPECT_EQ(heard.all[7].error_text, "no");
  EXPECT_TRUE(talk.unanswered().empty());
}

TEST(QmpConversation, IsInStepAfterAGapAndCountsWhatWasNotWhole) {
  Heard heard;
  Conversation talk(true);
  talk.feed(Direction::out, "{\"return\": [1, 2", 1, heard.sink());
  talk.miss(Direction::out, 100, 2, heard.sink());
  talk.feed(Direction::out, ", {\"x\": 3}]}\r\n{\"event\": \"STOP\"}\r\n", 3, heard.sink());
  std::uint64_t lost = 0;
  for (const Overheard& message : heard.all) lost += message.lost_bytes;
  EXPECT_EQ(lost, 16u + 100u + 14u);
  ASSERT_EQ(heard.all.back().kind, Kind::event);
  EXPECT_EQ(heard.all.back().event, "STOP");
}

TEST(QmpConversation, TakesNoReplyAfterAGapForWhatWasAskedBeforeIt) {
  for (const Direction lost : {Direction::in, Direction::out}) {
    Heard heard;
    Conversation talk(true);
    talk.feed(Direction::in, R"({"execute": "query-qmp-schema"})", 1, heard.sink());
    talk.feed(Direction::in, R"({"execute": "query-block", "id": 7})", 2, heard.sink());
    talk.miss(lost, 100, 3, heard.sink());
    // The reply of an id that was seen can only be lost, never be another's.
    EXPECT_EQ(talk.unanswered().size(), lost == Direction::in ? 1u : 0u);
    talk.feed(Direction::out, "{\"return\": {}}\r\n", 4, heard.sink());
    ASSERT_EQ(heard.all.back().kind, Kind::reply);
    EXPECT_EQ(heard.all.back().command, "");
    EXPECT_EQ(heard.all.back().sent_ns, 0u);
  }
}

TEST(QmpConversation, BeginsInTheMiddleOfAMessage) {
  for (const std::string_view first : {"3}]}\r\n{\"return\": {}}\r\n", "{\"return\": {}}\r\n"}) {
    Heard heard;
    Conversation talk(false);
    talk.feed(Direction::out, first, 1, heard.sink());
    ASSERT_FALSE(heard.all.empty());
    EXPECT_EQ(heard.all.back().kind, Kind::reply);
    EXPECT_EQ(heard.all.back().command, "") << "what it answers was not heard";
    EXPECT_EQ(heard.all.back().sent_ns, 0u);
  }
}

// QEMU reads its monitor byte by byte.
TEST(QmpConversation, HearsACommandByteByByteFromWhateverItBeginsWith) {
  for (const bool from_start : {true, false}) {
    Heard heard;
    Conversation talk(from_start);
    for (const char c : std::string("{\"execute\": \"stop\", \"arguments\": {}}"))
      talk.feed(Direction::in, std::string_view(&c, 1), 5, heard.sink());
    ASSERT_EQ(heard.all.size(), 1u);
    EXPECT_EQ(heard.all[0].command, "stop");
  }
}

TEST(QmpConversation, KnowsByAReplyThatTheNextByteBeginsACommand) {
  Heard heard;
  Conversation talk(false);
  for (const char c : std::string("cute\": \"lost\"}"))
    talk.feed(Direction::in, std::string_view(&c, 1), 5, heard.sink());
  talk.feed(Direction::out, "{\"return\": {}}\r\n", 6, heard.sink());
  for (const char c : std::string("{\"execute\": \"cont\"}"))
    talk.feed(Direction::in, std::string_view(&c, 1), 7, heard.sink());
  ASSERT_EQ(heard.all.size(), 3u);
  EXPECT_EQ(heard.all[1].kind, Kind::gap);
  EXPECT_EQ(heard.all[1].lost_bytes, 14u);
  EXPECT_EQ(heard.all[2].command, "cont");
}

TEST(QmpConversation, KeepsABoundedNumberOfCommandsThatNobodyAnswers) {
  Heard heard;
  Conversation talk(true);
  for (int i = 0; i < 5000; ++i)
    talk.feed(Direction::in, "{\"execute\":\"x\",\"id\":" + std::to_string(i) + "}\n", 1, heard.sink());
  EXPECT_EQ(talk.unanswered().size(), Conversation::kMaxUnanswered);
  EXPECT_EQ(talk.unanswered().back().id, "4999");
}

TEST(QmpConversation, ReportsWhatIsNoMessageAndGoesOn) {
  Heard heard;
  Conversation talk(true);
  talk.feed(Direction::out, "QEMU 7.2 monitor\r\n{\"a\": \xc3\x28}\r\n{\"event\": \"RESUME\"}\r\n", 1,
            heard.sink());
  ASSERT_EQ(heard.all.size(), 3u);
  EXPECT_EQ(heard.all[0].kind, Kind::other);
  EXPECT_EQ(heard.all[1].kind, Kind::other);
  EXPECT_EQ(heard.all[2].event, "RESUME");
}

}  // namespace
}  // namespace vmwhy::qmp::proto
