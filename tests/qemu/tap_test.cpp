// SPDX-License-Identifier: BSD-2-Clause
// qmp-tap beside clients that hold the monitors of real QEMUs.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tap_run.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/qemu.hpp"

namespace vmwhy::test {
namespace {

TEST(QmpTap, HearsEveryMessageOfTwoMonitorsAsQemuLogsThem) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  const TempDir dir;
  QemuOptions options{.name = "equal", .boot = "idle.bin"};
  for (const char* id : {"m0", "m1"})
    for (const std::string& word : logged_monitor(dir, id)) options.args.push_back(word);
  QemuProcess vm(dir, options);
  Tap tap(dir, "equal", {"--json", "-b", "64"});
  QmpProbe first(dir / "m0.sock"), second(dir / "m1.sock");
  constexpr int kRounds = 1250;
  for (int i = 0; i < kRounds; ++i) {
    first.call("query-status");
    second.call(i % 2 == 0 ? "stop" : "cont");  // An event on each monitor.
    if (i % 100 == 50) second.call("no-such-command");
  }
  first.call("query-name");
  second.call("query-name");
  const auto is_last = [](const json::object& line) {
    return kind_of(line) == "reply" && text_of(line, "command") == "query-name";
  };
  ASSERT_TRUE(wait_until([&] { return tap.lines(is_last).size() == 2; }));
  for (const std::string id : {"m0", "m1"}) {
    SCOPED_TRACE(id);
    std::vector<json::value> logged;
    const std::string log = read_file(dir / (id + ".log"));
    for (const std::string_view line : split(log, '\n'))
      if (!trim(line).empty()) logged.push_back(json::parse(trim(line)));
    EXPECT_GT(logged.size(), 2u * kRounds);
    expect_equal(heard_of(tap, id, "out"), logged);
    EXPECT_GE(heard_of(tap, id, "in").size(), static_cast<std::size_t>(kRounds) + 2);
  }
  for (const json::object& line : tap.lines()) {
    if (kind_of(line) != "reply") continue;
    EXPECT_TRUE(line.contains("latency_ns")) << json::serialize(line).substr(0, 300);
  }
  EXPECT_EQ(tap.finish(), 0);
}

TEST(QmpTap, TraceTellsVmWhyWhoStoppedTheVmAndWhoLetItGoOn) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  const TempDir dir;
  QemuProcess vm(dir, {.name = "asked", .boot = "idle.bin"});
  vm.cont();
  const std::string trace = dir / "tap.vmt";
  Tap tap(dir, "asked", {"--json", "-o", trace});
  ChildProcess stopper({binary("qmp-call"), "-s", vm.monitor(), "--watch", "stop"});
  ASSERT_TRUE(tap.wait_for([](const json::object& line) { return says(line, "event", "\"STOP\""); }));
  vm.cont();
  ASSERT_TRUE(tap.wait_for([](const json::object& line) { return says(line, "event", "\"RESUME\""); }));
  EXPECT_EQ(tap.finish(), 0);
  IncidentJson pause;
  for (const IncidentJson& incident : vm_why({trace}))
    if (text_of(incident, "kind") == "pause") pause = incident;
  ASSERT_TRUE(is_verdict(pause, "operator-stop", "proven"));
  const json::object& sender = pause.at("details").as_object().at("sent_by").as_object();
  EXPECT_EQ(sender.at("pid").to_number<pid_t>(), stopper.pid());
  EXPECT_EQ(sender.at("comm"), "qmp-call");
  EXPECT_TRUE(sender.contains("command_id"));
  const json::object& resumer = pause.at("details").as_object().at("resumed_by").as_object();
  EXPECT_EQ(resumer.at("pid").to_number<pid_t>(), ::getpid());
  EXPECT_EQ(resumer.at("command"), "cont");
}

TEST(QmpTap, HearsAQemuThatStartsLaterFromItsFirstWord) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  const TempDir dir;
  Tap tap(dir, "later", {"--json"}, "no such VM yet");
  QemuProcess other(dir, {.name = "unwanted", .boot = "idle.bin"});
  QemuProcess vm(dir, {.name = "later", .boot = "idle.bin"});
  vm.call("query-name");
  ASSERT_TRUE(tap.wait_for([](const json::object& line) { return says(line, "reply", "\"query-name\""); }));
  std::vector<std::string> kinds;
  for (const json::object& line : tap.lines()) {
    if (kind_of(line) != "connection") kinds.push_back(kind_of(line));
    if (line.contains("vm")) {
      EXPECT_EQ(line.at("vm").as_object().at("pid").to_number<pid_t>(), vm.pid());
    }
  }
  EXPECT_EQ(kinds, (std::vector<std::string>{"greeting", "command", "reply", "command", "reply"}));
  EXPECT_EQ(tap.finish(), 0);
}

TEST(QmpTap, ShowsNothingRawThatAClientOrAVmSays) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  const TempDir dir;
  const std::string name = "evil\033[31m\xe2\x80\xae";
  for (const bool as_json : {true, false}) {
    SCOPED_TRACE(as_json);
    QemuOptions options{.name = as_json ? "raw1" : "raw2", .boot = "idle.bin"};
    options.args = {"-name", name};
    for (const std::string& word : logged_monitor(dir, as_json ? "m2" : "m3")) options.args.push_back(word);
    QemuProcess vm(dir, options);
    std::vector<std::string> more{"-v", "--color=never"};
    if (as_json) more.emplace_back("--json");
    Tap tap(dir, name, more);
    RawClient client(dir / (as_json ? "m2.sock" : "m3.sock"));
    client.send("{\"execute\":\"query-name\",\"id\":\"\\u001b[2J\\u202e\"}\r\n");
    client.read_until("\"id\"");
    client.send("{'execute': 'x\033]0;title\007', 'id': '\033[5m'}\r\n");
    client.send("\xff\xff no json \033[1m \xc3\x28\r\n");
    client.send("{\"execute\":\"query-version\",\"id\":\"the end\"}\r\n");
    client.read_until("the end");
    ASSERT_TRUE(wait_until([&] {
      const std::string text = tap.text();
      const std::size_t command = text.find("query-version");
      return command != std::string::npos && text.find("query-version", command + 1) != std::string::npos;
    })) << tap.text();
    EXPECT_EQ(tap.finish(), 0);
    for (const char c : tap.text() + tap.process().err())
      EXPECT_TRUE(c == '\n' || static_cast<unsigned char>(c) >= 0x20) << static_cast<int>(c);
    EXPECT_EQ(tap.text().find("\xe2\x80\xae"), std::string::npos) << "a bidirectional override";
    if (as_json) tap.lines();  // Each of them is JSON.
  }
}

TEST(QmpTap, MasksSecretsOnTheScreenAndNeverRecordsThem) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  const TempDir dir;
  QemuProcess vm(dir, {.name = "secrets", .boot = "idle.bin"});
  const std::string trace = dir / "tap.vmt";
  const auto run = [&](const std::vector<std::string>& options) {
    Tap tap(dir, "secrets", options);
    vm.call("object-add", {{"qom-type", "secret"}, {"id", "s0"}, {"data", "hunter2"}});
    vm.call("object-del", {{"id", "s0"}});
    vm.call("set_password", {{"protocol", "vnc"}, {"password", "hunter2"}});
    vm.hmp("set_password vnc hunter2");
    vm.call("query-kvm");
    EXPECT_TRUE(tap.wait_for([](const json::object& line) { return says(line, "reply", "query-kvm"); }));
    EXPECT_EQ(tap.finish(), 0);
    return tap.text();
  };
  const std::string masked = run({"--json", "-o", trace});
  EXPECT_EQ(masked.find("hunter2"), std::string::npos);
  EXPECT_NE(masked.find("***"), std::string::npos);
  const std::string open = run({"--json", "--show-secrets", "-o", dir / "second.vmt"});
  EXPECT_NE(open.find("hunter2"), std::string::npos);
  for (const std::string& file : {trace, dir / "second.vmt"}) {
    const Output cat = run_program({binary("vm-trace"), "cat", "--json", file});
    EXPECT_NE(cat.out.find("set_password"), std::string::npos);
    EXPECT_EQ(cat.out.find("hunter2"), std::string::npos);
  }
}

TEST(QmpTap, NoticesAClientThatDoesNotRead) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  const TempDir dir;
  QemuOptions options{.name = "lazy", .boot = "idle.bin"};
  options.args = logged_monitor(dir, "m4");
  QemuProcess vm(dir, options);
  Tap tap(dir, "lazy", {"--json", "-b", "64"});
  RawClient client(dir / "m4.sock");
  constexpr int kSchemas = 12;
  std::string commands;
  for (int i = 0; i < kSchemas; ++i)
    commands += "{\"execute\":\"query-qmp-schema\",\"id\":" + std::to_string(1000 + i) + "}\r\n";
  client.send(commands);
  ASSERT_TRUE(tap.wait_for([](const json::object& line) { return says(line, "connection", "\"blocked\""); }));
  client.read_until("\"id\": " + std::to_string(1000 + kSchemas - 1));
  ASSERT_TRUE(tap.wait_for([](const json::object& line) { return says(line, "connection", "\"flowing\""); }));
  const auto whole = [](const json::object& line) {
    return kind_of(line) == "reply" && text_of(line, "command") == "query-qmp-schema";
  };
  ASSERT_TRUE(wait_until([&] { return tap.lines(whole).size() == kSchemas; }));
  EXPECT_TRUE(tap.lines([](const json::object& line) { return kind_of(line) == "gap"; }).empty());
  EXPECT_EQ(tap.finish(), 0);
}

TEST(QmpTap, SlowTellsOfACommandThatHasNoReply) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  const TempDir dir;
  // The main loop opens a FIFO that nobody writes to, and stands.
  const std::string fifo = dir / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  QemuProcess vm(dir, {.name = "stuck", .boot = "idle.bin"});
  Tap tap(dir, "stuck", {"--json", "--slow", "200ms"});
  vm.call("query-status");
  vm.qmp().send(
      "chardev-add",
      {{"id", "c0"}, {"backend", {{"type", "file"}, {"data", {{"in", fifo}, {"out", dir / "out"}}}}}});
  ASSERT_TRUE(
      tap.wait_for([](const json::object& line) { return says(line, "waiting", "\"chardev-add\""); }));
  const UniqueFd let_go(::open(fifo.c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(tap.wait_for([](const json::object& line) { return says(line, "reply", "\"chardev-add\""); }));
  const auto replies = tap.lines([](const json::object& line) { return kind_of(line) == "reply"; });
  for (const json::object& line : replies)
    EXPECT_GE(line.at("latency_ns").to_number<std::uint64_t>(), 200'000'000u);
  EXPECT_EQ(tap.finish(), 0);
}

}  // namespace
}  // namespace vmwhy::test
