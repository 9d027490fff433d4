// SPDX-License-Identifier: BSD-2-Clause
// The timeline: order by QEMU's own time, incidents that open and close once, memory that stays bounded.

#include "timeline/timeline.hpp"

#include <gmock/gmock.h>

#include "causes/analysis.hpp"
#include "tests/support/trace_script.hpp"

namespace vmwhy::test {
namespace {

using causes::Change;
using ::testing::ElementsAre;

timeline::Timeline timeline_of(std::string_view script) {
  const ScriptedTrace trace = parse_trace_script(script);
  EXPECT_EQ(trace.error, "");
  timeline::Timeline line;
  for (const trace::OwnedRecord& record : trace.records) line.add(record.view());
  return line;
}

std::vector<causes::Incident> incidents_of(std::string_view script) {
  const ScriptedTrace trace = parse_trace_script(script);
  EXPECT_EQ(trace.error, "");
  causes::Analysis analysis;
  for (const trace::OwnedRecord& record : trace.records) analysis.add(record.view());
  return analysis.judge_all();
}

std::vector<Change::What> changes_of(std::string_view script) {
  const ScriptedTrace trace = parse_trace_script(script);
  EXPECT_EQ(trace.error, "");
  causes::Analysis analysis;
  for (const trace::OwnedRecord& record : trace.records) analysis.add(record.view());
  std::vector<Change::What> what;
  for (const Change& change : analysis.take_changes()) what.push_back(change.what);
  return what;
}

std::uint64_t at(double seconds) {
  return kScriptBoottimeNs + static_cast<std::uint64_t>(seconds * 1e6 + 0.5) * 1000;
}

TEST(Bounded, KeepsFirstAndLastAndCountsTheMiddle) {
  timeline::Bounded<timeline::Withheld> list(4);
  for (std::uint64_t i = 1; i <= 10; ++i) list.add({i, std::to_string(i), ""});
  std::vector<std::string> kept;
  for (const auto& fact : list) kept.push_back(fact.command);
  EXPECT_THAT(kept, ElementsAre("1", "2", "9", "10"));
  EXPECT_EQ(list.dropped(), 6U);
}

TEST(Bounded, SortsByTimeAndFindsInWindows) {
  timeline::Bounded<timeline::Withheld> list(8);
  for (std::uint64_t time : {5, 1, 3}) list.add({time, std::to_string(time), ""});
  EXPECT_EQ(list.first_in(2, 9)->time_ns, 3U);
  EXPECT_EQ(list.last_in(0, 4)->time_ns, 3U);
  EXPECT_EQ(list.first_in(6, 9), nullptr);
  EXPECT_EQ(list.last_in(4, 4), nullptr);
  list.forget_before(4);
  EXPECT_EQ(list.size(), 1U);
  list.forget_before(100);
  EXPECT_EQ(list.size(), 1U) << "the newest stays";
}

TEST(Timeline, OrdersEventsByTheirOwnStampsAndKeepsTheirArrival) {
  const timeline::Timeline line =
      timeline_of("1 event STOP stamp=0.9\n1.1 event BLOCK_IO_ERROR {\"action\":\"stop\"} stamp=0.8\n");
  const timeline::QmpEvent& error = line.vm(1).events_named("BLOCK_IO_ERROR")->back();
  EXPECT_TRUE(error.stamped);
  EXPECT_EQ(error.time_ns, at(0.8));
  EXPECT_EQ(error.arrival_ns, at(1.1));
}

TEST(Timeline, TakesTheArrivalOfAnEventWithoutAStamp) {
  const auto incidents = incidents_of("1 event STOP stamp=none\n2 status paused\n");
  ASSERT_EQ(incidents.size(), 1U);
  EXPECT_EQ(incidents[0].begin_ns, at(1));
}

TEST(Timeline, ConvertsStampsAcrossAStepOfTheWallClock) {
  // REALTIME is set back by an hour at 5 s; the stamp of the event at 6 s says an hour less.
  const auto incidents = incidents_of("5 clock realtime=-3600\n6 event STOP step=-3600\n6.1 status paused\n");
  ASSERT_EQ(incidents.size(), 1U);
  EXPECT_EQ(incidents[0].begin_ns, at(6));
}

TEST(Timeline, CountsAnEventThatTwoMonitorsBringOnce) {
  const std::string two = "0 link ready link=1 address=/run/second.qmp\n";
  EXPECT_EQ(
      incidents_of(
          two +
          "1 event STOP\n1.01 event STOP link=1 stamp=1\n2 event RESUME\n2.01 event RESUME link=1 stamp=2\n")
          .size(),
      1U);
  EXPECT_EQ(incidents_of(two + "1 event STOP stamp=none\n1.01 event STOP link=1 stamp=none\n").size(), 1U);
}

TEST(Incidents, OpenCollectAndCloseAPauseOnce) {
  EXPECT_THAT(changes_of("1 event STOP\n1.1 status paused\n1.2 collected began=1.05\n2 event RESUME\n"),
              ElementsAre(Change::What::opened, Change::What::collected, Change::What::closed));
}

TEST(Incidents, AreNotCompletedByACollectionThatBeganBefore) {
  EXPECT_THAT(changes_of("1 event STOP\n1.2 collected began=0.5\n"), ElementsAre(Change::What::opened));
}

TEST(Incidents, FindAPauseThatBeganBeforeTheWatch) {
  const auto incidents = incidents_of("1 status io-error\n2 status io-error\n");
  ASSERT_EQ(incidents.size(), 1U);
  EXPECT_TRUE(incidents[0].began_before_watch);
  EXPECT_EQ(incidents[0].run_state, "io-error");
}

TEST(Incidents, KeepTheFirstRunState) {
  EXPECT_EQ(incidents_of(
                "1 event STOP\n1.1 status io-error\n2 event RESET {\"guest\":false}\n3 status prelaunch\n")[0]
                .run_state,
            "io-error");
}

TEST(Incidents, TrustNoReplyThatWasAskedForBeforeAnEvent) {
  // "running" was sent for before the STOP: it says nothing of the time after.
  EXPECT_FALSE(incidents_of("1 event STOP\n1.001 status running sent=0.999\n")[0].end_ns);
  // "paused" was sent for before the RESUME.
  EXPECT_EQ(incidents_of("1 event STOP\n1.5 event RESUME\n1.501 status paused sent=1.4\n").size(), 1U);
}

TEST(Incidents, CloseWhenQueryStatusSaysRunningAndLetTheEventCorrectIt) {
  auto incidents = incidents_of("1 event STOP\n5 status running\n");
  EXPECT_EQ(incidents[0].end_ns, at(5));
  incidents = incidents_of("1 event STOP\n5 status running\n5.1 event RESUME stamp=4\n");
  ASSERT_EQ(incidents.size(), 1U);
  EXPECT_EQ(incidents[0].end_ns, at(4));
  EXPECT_EQ(incidents[0].ended_by, "RESUME");
}

TEST(Incidents, LetAStopThatCameLateCorrectWhenAPauseBegan) {
  const auto incidents = incidents_of("1 status running\n3 status paused\n3.1 event STOP stamp=2.5\n");
  ASSERT_EQ(incidents.size(), 1U);
  EXPECT_EQ(incidents[0].begin_ns, at(2.5));
  EXPECT_FALSE(incidents[0].began_before_watch);
}

TEST(Incidents, DoNotTakeAReplyToContForAResume) {
  EXPECT_FALSE(incidents_of("1 event STOP\n2 command cont\n2.1 reply cont {}\n")[0].end_ns);
}

TEST(Incidents, EndWithTheirQemu) {
  const auto incidents =
      incidents_of("1 event STOP\n1.1 status paused\n2 link closed\n2.1 end signaled 9\n30 clock\n");
  ASSERT_EQ(incidents.size(), 2U) << "a pause and an exit, and no lost monitor";
  EXPECT_EQ(incidents[0].ended_by, "QEMU ended");
  EXPECT_EQ(incidents[1].kind, causes::Kind::exit);
}

TEST(Incidents, MakeOneStallOfAStopAndItsOverdueReply) {
  const auto incidents = incidents_of(
      "1 process T\n3 link reply_overdue waited=2 detail=query-status\n5 process S\n"
      "5.1 link reply_late waited=4 detail=query-status\n");
  ASSERT_EQ(incidents.size(), 1U);
  EXPECT_TRUE(incidents[0].end_ns);
}

TEST(Incidents, DoNotTakeAHeldMonitorForAStall) {
  EXPECT_TRUE(
      incidents_of("bare\n0 clock\n0 seen "
                   "{\"name\":\"a\",\"monitors\":[{\"address\":\"/m\",\"held\":true,\"held_by_pid\":9}]}\n"
                   "1 link greeting_missing waited=2 address=/m\n")
          .empty());
  EXPECT_EQ(incidents_of(
                "bare\n0 clock\n0 seen {\"name\":\"a\",\"monitors\":[{\"address\":\"/m\",\"held\":false}]}\n"
                "1 link greeting_missing waited=2 address=/m\n")
                .size(),
            1U);
  // Found out only by the client: the socket goes by another path here than on QEMU's command line.
  EXPECT_TRUE(incidents_of("1 link held waited=2 address=m\n").empty());
}

TEST(Analysis, KeepsItsVerdictWhenTheFactsAreForgotten) {
  const std::string script =
      "1 event BLOCK_IO_ERROR "
      "{\"node-name\":\"d0\",\"nospace\":true,\"operation\":\"write\",\"action\":\"stop\",\"reason\":\"x\"}\n"
      "1.001 event STOP\n1.002 file node=d0 free=0\n1.003 status io-error\n1.1 collected began=1.0015\n2 "
      "event RESUME\n";
  const auto before = incidents_of(script);
  const auto after = incidents_of(script + "400 status running\n800 status running\n");
  ASSERT_EQ(after.size(), 1U);
  EXPECT_EQ(after[0].verdict.cause, "storage-full");
  EXPECT_EQ(after[0].verdict.evidence.size(), before[0].verdict.evidence.size());
}

TEST(Analysis, StaysBoundedInAFloodOfEvents) {
  causes::Analysis analysis;
  timeline::Timeline line;
  // Own stamps are taken away: they would all be the same.
  const ScriptedTrace one = parse_trace_script(
      "1 event STOP\n1.5 event BLOCK_IO_ERROR {\"node-name\":\"d0\",\"action\":\"stop\"}\n2 event RESUME\n3 "
      "event FLOOD {\"n\":1}\n");
  for (const trace::OwnedRecord& record : one.records) line.add(record.view());
  for (int i = 0; i < 6000; ++i) {
    for (trace::OwnedRecord record : one.records) {
      if (record.header.type != static_cast<std::uint16_t>(trace::RecordType::qmp_message)) continue;
      auto message = record.view().as<trace::QmpMessage>();
      message.wall_us = -1;
      record = trace::make_record(record.header.time_ns + static_cast<std::uint64_t>(i) * 3'000'000'000, 1,
                                  message, record.text);
      line.add(record.view());
      analysis.add(record.view());
    }
  }
  for (const auto& [name, list] : line.vm(1).events) EXPECT_LE(list.size(), timeline::kEventsPerName) << name;
  // 6,000 stops by hand: the first and the last ones are kept, and the summary says so.
  EXPECT_LE(analysis.judge_all().size(), 4096U + 256U);
  EXPECT_THAT(analysis.summary().notes, ::testing::Contains(::testing::HasSubstr("are not listed")));
}

TEST(Analysis, GivesAnEmptyIncidentForAnIdThatIsNotThere) {
  EXPECT_EQ(causes::Analysis().judge(7).id, 0U);
}

}  // namespace
}  // namespace vmwhy::test
