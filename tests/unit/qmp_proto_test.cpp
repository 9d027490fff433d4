// SPDX-License-Identifier: BSD-2-Clause
// Splitter, messages, events, run states, router and allow-list.
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <string>
#include <vector>

#include "qmp/client.hpp"
#include "qmp/proto/allow_list.hpp"
#include "qmp/proto/events.hpp"
#include "qmp/proto/line_splitter.hpp"
#include "qmp/proto/message.hpp"
#include "qmp/proto/router.hpp"
#include "qmp/proto/run_state.hpp"

namespace vmwhy::qmp::proto {
namespace {

namespace json = boost::json;

struct Got {
  std::string text;
  std::size_t length;
  bool overlong;
};

std::vector<Got> feed(LineSplitter& splitter, std::string_view bytes, std::size_t piece) {
  std::vector<Got> out;
  while (!bytes.empty()) {
    std::string_view part = bytes.substr(0, piece);
    bytes.remove_prefix(part.size());
    while (const auto line = splitter.next(part))
      out.push_back({std::string(line->text), line->length, line->overlong});
    EXPECT_TRUE(part.empty());
  }
  return out;
}

json::object object(std::string_view text) {
  return json::parse(text).as_object();
}

TEST(QmpLineSplitter, CutsTheSameLinesFromPiecesOfAnySize) {
  const std::string stream = "{\"a\":1}\r\n\r\n \n{\"b\":2}\n{\"c\":3}\r\nrest";
  for (std::size_t piece = 1; piece <= stream.size(); ++piece) {
    LineSplitter splitter(100);
    const auto lines = feed(splitter, stream, piece);
    ASSERT_EQ(lines.size(), 3u) << piece;
    EXPECT_EQ(lines[0].text, "{\"a\":1}");
    EXPECT_EQ(lines[1].text, "{\"b\":2}");
    EXPECT_EQ(lines[2].text, "{\"c\":3}");
    EXPECT_EQ(lines[2].length, 7u);
    EXPECT_EQ(splitter.pending(), 4u);
    EXPECT_EQ(splitter.pending_text(), "rest");
  }
}

TEST(QmpLineSplitter, ReportsAnOverlongLineOnceAndIsInStepAfterIt) {
  const std::string stream = "12345678\n" + std::string(1000, 'x') + "\n87654321\n";
  for (const std::size_t piece : {1u, 2u, 7u, 500u, 2000u}) {
    LineSplitter splitter(8);
    const auto lines = feed(splitter, stream, piece);
    ASSERT_EQ(lines.size(), 3u) << piece;
    EXPECT_FALSE(lines[0].overlong);
    EXPECT_TRUE(lines[1].overlong);
    EXPECT_EQ(lines[1].length, 1000u);
    EXPECT_EQ(lines[1].text, "xxxxxxxx");
    EXPECT_EQ(lines[2].text, "87654321");
  }
}

TEST(QmpLineSplitter, KeepsOnlyTheBeginningOfAnOverlongLine) {
  LineSplitter splitter(1u << 20);
  const std::string piece(1u << 16, 'y');
  for (int i = 0; i < 1600; ++i) {  // 100 MiB
    std::string_view part = piece;
    ASSERT_FALSE(splitter.next(part));
    ASSERT_LE(splitter.pending_text().size(), 1u << 20);
  }
  EXPECT_EQ(splitter.pending(), 1600u << 16);
  EXPECT_EQ(splitter.pending_text().size(), LineSplitter::kKeptOfOverlong);
  std::string_view end = "\n{}\n";
  EXPECT_TRUE(splitter.next(end)->overlong);
  EXPECT_EQ(splitter.next(end)->text, "{}");
}

TEST(QmpMessage, TakesAGreetingApart) {
  const auto message = parse_message(
      R"({"QMP": {"version": {"qemu": {"micro": 50, "minor": 2, "major": 99}, "new": 1}, "capabilities": ["oob", "later"], "__x": 1}})");
  ASSERT_TRUE(message);
  EXPECT_EQ(message->type, MessageType::greeting);
  EXPECT_EQ(message->version.at("qemu").at("major").as_int64(), 99);
  EXPECT_TRUE(message->offers("oob"));
  EXPECT_FALSE(message->offers("oo"));
}

TEST(QmpMessage, TakesAnEventApartInAnyOrderOfMembers) {
  const auto message = parse_message(
      R"({"data": {"action": "pause"}, "unheard-of": [1], "event": "WATCHDOG", "timestamp": {"microseconds": 5, "seconds": 1700000000}})");
  ASSERT_TRUE(message);
  EXPECT_EQ(message->type, MessageType::event);
  EXPECT_EQ(message->event, "WATCHDOG");
  EXPECT_EQ(message->wall_us, 1'700'000'000'000'005);
  EXPECT_EQ(read_watchdog_action(message->data), "pause");
}

TEST(QmpMessage, HasNoStampWhereQemuHadNone) {
  for (const char* stamp :
       {R"({"seconds": -1, "microseconds": -1})", R"({"seconds": 1e30, "microseconds": 0})",
        R"({"seconds": 18446744073709551615, "microseconds": 0})", R"({"seconds": 1})", "[]", "null",
        R"({"seconds": 9223372036854775807, "microseconds": 999999})"}) {
    const auto message = parse_message(std::string(R"({"event": "STOP", "timestamp": )") + stamp + "}");
    ASSERT_TRUE(message) << stamp;
    EXPECT_EQ(message->wall_us, -1) << stamp;
  }
}

TEST(QmpMessage, KeepsNumbersBeyondInt64) {
  const auto message =
      parse_message(R"({"return": {"big": 18446744073709551615, "low": -9223372036854775808}, "id": 7})");
  ASSERT_TRUE(message);
  EXPECT_EQ(message->value.at("big").as_uint64(), 18446744073709551615u);
  EXPECT_EQ(message->value.at("low").as_int64(), INT64_MIN);
  EXPECT_EQ(message->id.as_int64(), 7);
}

TEST(QmpMessage, KeepsClassAndTextOfAnErrorApart) {
  const auto message =
      parse_message(R"({"id": "x", "error": {"class": "GenericError", "desc": "a\u001b[31m"}})");
  ASSERT_TRUE(message);
  EXPECT_EQ(message->type, MessageType::error);
  EXPECT_EQ(message->error_class, "GenericError");
  EXPECT_EQ(message->error_text, "a\x1b[31m");
  const Failure failure{make_error_code(Errc::error_reply), "stop", message->error_class,
                        message->error_text};
  EXPECT_EQ(to_string(failure), "stop: QEMU answered with an error: \"a\\x1b[31m\"");
}

TEST(QmpMessage, CallsMalformedWhatIsNoJsonObject) {
  for (const std::string& line :
       {std::string("QEMU 7.2.22 monitor - type 'help' for more information"), std::string("{\"a\":"),
        std::string("[1]"), std::string("3"), std::string("{} {}"), std::string("{\"event\": \"\xff\xfe\"}"),
        std::string("{\"event\": \"\xc0\x80\"}"), std::string("{\"event\": \"\\ud800\"}"),
        std::string("\0{}", 3), std::string(1000, '['),
        "{\"a\":" + std::string(5000, '[') + std::string(5000, ']') + "}"}) {
    const auto message = parse_message(line);
    ASSERT_FALSE(message) << line;
    EXPECT_EQ(message.error().code, Errc::malformed);
  }
}

TEST(QmpMessage, PassesUnknownKindsThrough) {
  EXPECT_EQ(parse_message(R"({"notice": 1})")->type, MessageType::unknown);
  EXPECT_EQ(parse_message(R"({"event": 5})")->type, MessageType::unknown);
  EXPECT_EQ(parse_message(R"({"event": "NEVER_HEARD_OF"})")->event, "NEVER_HEARD_OF");
}

TEST(QmpMessage, RefusesMoreValuesThanMemoryIsGoodFor) {
  std::string line = "{\"return\":[";
  for (std::size_t i = 0; i <= kMaxValues; ++i) line += "0,";
  line += "0]}";
  EXPECT_EQ(parse_message(line).error().code, Errc::malformed);
}

TEST(QmpMessage, WritesCommandsOnOneLine) {
  EXPECT_EQ(format_command("query-status", {}, 3), "{\"execute\":\"query-status\",\"id\":3}\n");
  EXPECT_EQ(format_command("x", object(R"({"a": "b\n"})"), 4, true),
            "{\"exec-oob\":\"x\",\"arguments\":{\"a\":\"b\\n\"},\"id\":4}\n");
}

TEST(QmpRunState, KnowsAllSixteenAndKeepsTheTextOfOthers) {
  for (const char* name : {"debug", "inmigrate", "internal-error", "io-error", "paused", "postmigrate",
                           "prelaunch", "finish-migrate", "restore-vm", "running", "save-vm", "shutdown",
                           "suspended", "watchdog", "guest-panicked", "colo"})
    EXPECT_EQ(to_string(parse_run_state(name)), name);
  const auto status =
      parse_run_status(json::parse(R"({"status": "hibernated", "running": false, "more": 1})"));
  ASSERT_TRUE(status);
  EXPECT_EQ(status->state, RunState::other);
  EXPECT_EQ(status->text, "hibernated");
  EXPECT_FALSE(status->running);
  EXPECT_FALSE(parse_run_status(json::parse(R"({"running": true})")));
  EXPECT_FALSE(parse_run_status(json::parse("[]")));
}

TEST(QmpEvents, ReadWhatIsThereAndLeaveTheRestEmpty) {
  const auto error = read_block_io_error(object(
      R"({"device": "", "node-name": "d0", "nospace": true, "operation": "write", "action": "stop", "reason": 5})"));
  EXPECT_EQ(error.node_name, "d0");
  EXPECT_EQ(error.nospace, true);
  EXPECT_EQ(error.reason, "");
  EXPECT_EQ(read_block_io_error({}).nospace, std::nullopt);
  EXPECT_EQ(read_end_or_reset(object(R"({"guest": true, "reason": "guest-reset"})")).reason, "guest-reset");
  EXPECT_EQ(read_guest_panic(object(R"({"action": "pause", "info": {"type": "hyper-v", "arg1": 1}})")).type,
            "hyper-v");
  EXPECT_EQ(read_migration_status(object(R"({"status": "postcopy-paused"})")), "postcopy-paused");
  const auto memory = read_memory_failure(object(
      R"({"recipient": "guest", "action": "inject", "flags": {"action-required": true, "recursive": false}})"));
  EXPECT_EQ(memory.recipient, "guest");
  EXPECT_EQ(memory.action_required, true);
  EXPECT_EQ(memory.recursive, false);
}

TEST(QmpEvents, KnowWhichAreRateLimited) {
  EXPECT_TRUE(is_rate_limited("WATCHDOG"));
  EXPECT_TRUE(is_rate_limited("BLOCK_IO_ERROR"));
  EXPECT_FALSE(is_rate_limited("STOP"));
}

TEST(QmpRouter, MatchesRepliesInAnyOrderAndDropsUnknownIds) {
  Router router;
  const auto first = router.add("a", 1, 100);
  const auto second = router.add("b", 2, 100);
  EXPECT_FALSE(router.match(json::value(77)));
  EXPECT_FALSE(router.match(json::value("1")));
  EXPECT_FALSE(router.match(json::value(-1)));
  EXPECT_FALSE(router.match(json::value(nullptr)));  // two are outstanding: whose it is cannot be told
  EXPECT_EQ(router.match(json::value(second))->command, "b");
  EXPECT_FALSE(router.match(json::value(second)));
  EXPECT_EQ(router.dropped(), 5u);
  EXPECT_EQ(router.in_flight(), 1u);
  const auto only = router.match(json::value(nullptr));
  ASSERT_TRUE(only);
  EXPECT_EQ(only->id, first);
}

TEST(QmpRouter, LetsEightCommandsInFlight) {
  Router router;
  for (int i = 0; i < 8; ++i) {
    EXPECT_TRUE(router.may_send());
    router.add("c", 0, 10);
  }
  EXPECT_FALSE(router.may_send());
  EXPECT_EQ(router.expire(10).size(), 8u);
  EXPECT_FALSE(router.may_send());  // overdue is not answered
}

TEST(QmpRouter, TellsEachDeadlineOnceAndStillKnowsTheLateReply) {
  Router router;
  const auto id = router.add("slow", 5, 50);
  router.add("patient", 5, 80);
  EXPECT_EQ(router.next_deadline(), 50u);
  EXPECT_TRUE(router.expire(49).empty());
  ASSERT_EQ(router.expire(50).size(), 1u);
  EXPECT_TRUE(router.expire(60).empty());
  EXPECT_EQ(router.next_deadline(), 80u);
  const auto late = router.match(json::value(id));
  ASSERT_TRUE(late);
  EXPECT_TRUE(late->overdue);
  EXPECT_EQ(late->sent_ns, 5u);
}

TEST(QmpAllowList, HoldsNothingThatChangesAVm) {
  for (const char* command :
       {"query-status", "query-block", "query-named-block-nodes", "query-blockstats", "query-jobs",
        "query-cpus-fast", "query-iothreads", "query-migrate", "qom-get", "qom-list"})
    EXPECT_TRUE(is_read_only(command)) << command;
  for (const char* command :
       {"", "stop", "cont", "quit", "system_reset", "human-monitor-command", "qom-set", "migrate",
        "device_del", "query-", "query-status ", "QUERY-STATUS", "query-whatever"})
    EXPECT_FALSE(is_read_only(command)) << command;
}

TEST(QmpAllowList, LetsTheHumanMonitorShowMemoryRegionsAndNothingElse) {
  using json::object;
  for (const char* line : {"info mtree", "info mtree -f"})
    EXPECT_TRUE(proto::on_allow_list("human-monitor-command", object{{"command-line", line}})) << line;
  for (const char* line : {"", "info", "info mtree ", " info mtree", "info mtree -f -d", "info mtree\nquit",
                           "info mtree;quit", "INFO MTREE", "info registers", "system_reset"})
    EXPECT_FALSE(proto::on_allow_list("human-monitor-command", object{{"command-line", line}})) << line;
  EXPECT_FALSE(proto::on_allow_list("human-monitor-command", object{}));
  EXPECT_FALSE(proto::on_allow_list("human-monitor-command", object{{"command-line", 1}}));
  EXPECT_FALSE(proto::on_allow_list("human-monitor-command",
                                    object{{"command-line", "info mtree"}, {"cpu-index", 0}}));
  EXPECT_TRUE(proto::on_allow_list("query-pci", object{}));
  EXPECT_FALSE(proto::on_allow_list("stop", object{}));
}

TEST(QmpAddress, ParsesWhatPeopleWrite) {
  EXPECT_EQ(Address::parse("/run/x.sock")->path, "/run/x.sock");
  EXPECT_EQ(Address::parse("unix:/run/x.sock")->path, "/run/x.sock");
  EXPECT_EQ(Address::parse("x.sock")->to_string(), "unix:x.sock");
  EXPECT_EQ(Address::parse("@vm/1")->path, "@vm/1");
  EXPECT_EQ(Address::parse("./a:1")->kind, Address::Kind::unix_socket);
  EXPECT_EQ(Address::parse("host:4444")->to_string(), "tcp:host:4444");
  EXPECT_EQ(Address::parse("tcp:[::1]:4444")->host, "::1");
  EXPECT_EQ(Address::parse("[::1]:4444")->to_string(), "tcp:[::1]:4444");
  EXPECT_EQ(Address::parse("tcp::4444")->host, "127.0.0.1");
  for (const char* text : {"", "unix:", "@", "tcp:host", "host:0", "host:70000", "host:x", "tcp:::1:44"})
    EXPECT_EQ(Address::parse(text).error().code, Errc::bad_address) << text;
}

}  // namespace
}  // namespace vmwhy::qmp::proto
