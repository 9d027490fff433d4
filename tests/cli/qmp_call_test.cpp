// SPDX-License-Identifier: BSD-2-Clause
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <mutex>
#include <sstream>

#include "cli/cli.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/fake_proc.hpp"
#include "tests/support/fake_qmp_server.hpp"
#include "tests/support/temp_dir.hpp"
#include "tools/qmp-call/qmp_call.hpp"

namespace vmwhy::qmp_call {
namespace {

namespace json = boost::json;
using test::FakeQmpServer;
using test::Peer;
using testing::HasSubstr;

struct Outcome {
  int code;
  std::string out;
  std::string err;
};

Outcome call(const std::vector<std::string>& words) {
  std::vector<const char*> argv{"qmp-call"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  std::ostringstream out;
  std::ostringstream err;
  Options options;
  options.deadline = std::chrono::seconds(60);
  auto code = parse_options(static_cast<int>(argv.size()), argv.data(), options, out, err);
  if (!code) code = run(options, out, err);
  return {*code, out.str(), err.str()};
}

class QmpCall : public testing::Test {
 protected:
  void healthy(Peer& peer) {
    if (!peer.negotiate()) return;
    peer.serve([this](std::string_view name, const json::object& arguments) -> std::optional<json::value> {
      const std::lock_guard lock(mutex);
      received.push_back(std::string(name) + json::serialize(arguments));
      if (name == "query-status") return json::object{{"status", "running"}, {"running", true}};
      if (name == "human-monitor-command") return json::value("line one\r\n\x1b[31mred\r\n");
      if (name == "stop") return json::object();
      return std::nullopt;
    });
  }
  FakeQmpServer::Script script() {
    return [this](Peer& peer) { healthy(peer); };
  }

  test::TempDir dir;
  std::string path = dir / "qmp.sock";
  std::mutex mutex;
  std::vector<std::string> received;
};

TEST_F(QmpCall, PrintsTheReply) {
  const FakeQmpServer server(path, script());
  const Outcome outcome = call({"-s", path, "query-status"});
  EXPECT_EQ(outcome.code, cli::kOk) << outcome.err;
  EXPECT_EQ(outcome.out, "{\n  \"status\": \"running\",\n  \"running\": true\n}\n");
  EXPECT_EQ(outcome.err, "");
}

TEST_F(QmpCall, SendsSeveralCommandsAndAllKindsOfArguments) {
  const FakeQmpServer server(path, script());
  const Outcome outcome = call({"-s", path, "stop", "a=1", "b=text", "c.d=true", "e=\"5\"", "f=x=y", "--",
                                "stop", R"({"k": [1, null]})", "--", "stop"});
  EXPECT_EQ(outcome.code, cli::kOk) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(received, (std::vector<std::string>{R"(stop{"a":1,"b":"text","c":{"d":true},"e":"5","f":"x=y"})",
                                                R"(stop{"k":[1,null]})", "stop{}"}));
}

TEST_F(QmpCall, StopsAtTheFirstErrorReply) {
  const FakeQmpServer server(path, script());
  const Outcome outcome = call({"-s", path, "nonsense", "--", "stop"});
  EXPECT_EQ(outcome.code, cli::kFailed);
  EXPECT_THAT(outcome.err, HasSubstr("The command nonsense has not been found"));
  EXPECT_EQ(received, std::vector<std::string>{"nonsense{}"});
}

TEST_F(QmpCall, WritesOneJsonObjectPerReply) {
  const FakeQmpServer server(path, script());
  const Outcome outcome = call({"-s", path, "--json", "query-status", "--", "nonsense"});
  EXPECT_EQ(outcome.code, cli::kFailed);
  std::istringstream lines(outcome.out);
  std::string line;
  ASSERT_TRUE(std::getline(lines, line));
  const json::value first = json::parse(line);
  EXPECT_EQ(first.at("schema").as_string(), "vmwhy.qmp-call/1");
  EXPECT_EQ(first.at("return").at("status").as_string(), "running");
  ASSERT_TRUE(std::getline(lines, line));
  EXPECT_EQ(json::parse(line).at("error").at("class").as_string(), "CommandNotFound");
}

TEST_F(QmpCall, EscapesWhatQemuSends) {
  const FakeQmpServer server(path, script());
  const Outcome outcome = call({"-s", path, "human-monitor-command", "command-line=info"});
  EXPECT_EQ(outcome.out.find('\x1b'), std::string::npos);
  EXPECT_THAT(outcome.out, HasSubstr("line one\n"));
}

TEST_F(QmpCall, SaysWhatIsMissingAndWhatToDo) {
  const Outcome absent = call({"-s", dir / "none", "query-status"});
  EXPECT_EQ(absent.code, cli::kEnvironment);
  EXPECT_THAT(absent.err, HasSubstr(dir / "none"));
  EXPECT_THAT(absent.err, HasSubstr("--list"));
  EXPECT_EQ(std::count(absent.err.begin(), absent.err.end(), '\n'), 1);
}

TEST_F(QmpCall, SaysThatAProcessIsNoQemuOrNotThere) {
  for (const char* pid : {"1", "2147483647"}) {
    const Outcome outcome = call({"-p", pid, "query-status"});
    EXPECT_EQ(outcome.code, cli::kEnvironment);
    EXPECT_THAT(outcome.err, testing::StartsWith("qmp-call: process " + std::string(pid)));
    EXPECT_THAT(outcome.err, HasSubstr("--list"));
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  }
}

TEST_F(QmpCall, SaysThatASocketIsNoQmpMonitor) {
  const FakeQmpServer server(path, [](Peer& peer) {
    peer.send("QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ");
    peer.stay_silent();
  });
  const Outcome outcome = call({"-s", path, "query-status"});
  EXPECT_EQ(outcome.code, cli::kFailed);
  EXPECT_THAT(outcome.err, HasSubstr("not a QMP monitor"));
}

TEST_F(QmpCall, SaysThatTheMonitorIsSilent) {
  const FakeQmpServer server(path, nullptr);
  const Outcome outcome = call({"-s", path, "--qmp-deadline", "100ms", "query-status"});
  EXPECT_EQ(outcome.code, cli::kFailed);
  EXPECT_THAT(outcome.err, HasSubstr("no greeting within 100 ms"));
}

TEST_F(QmpCall, SaysThatACommandGotNoReply) {
  const FakeQmpServer server(path, [](Peer& peer) {
    if (peer.negotiate()) peer.stay_silent();
  });
  const Outcome outcome = call({"-s", path, "--qmp-deadline", "500ms", "query-status"});
  EXPECT_EQ(outcome.code, cli::kFailed);
  EXPECT_THAT(outcome.err,
              testing::AnyOf(HasSubstr("no reply within the deadline"), HasSubstr("qmp_capabilities")));
}

TEST_F(QmpCall, SaysOnceThatTheVmEndedInTheMiddle) {
  const FakeQmpServer server(path, [](Peer& peer) {
    if (peer.negotiate()) peer.read_line();
  });
  const Outcome outcome = call({"-s", path, "query-status"});
  EXPECT_EQ(outcome.code, cli::kFailed);
  EXPECT_THAT(outcome.err, HasSubstr("closed the connection"));
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
}

TEST_F(QmpCall, RefusesWrongUsage) {
  const std::vector<std::vector<std::string>> wrong{{"query-status"},
                                                    {"-s", path},
                                                    {"-s", path, "-p", "5", "x"},
                                                    {"--list", "x"},
                                                    {"-s", path, "stop", "word"},
                                                    {"-s", path, "stop", "{bad"},
                                                    {"-s", path, "a=b"},
                                                    {"-s", path, "stop", "a=1", "a.b=2"},
                                                    {"-s", path, "--watch", "-d", "soon"},
                                                    {"-s", "host:99999", "stop"},
                                                    {"-p", "-1", "stop"}};
  for (const auto& words : wrong) {
    const Outcome outcome = call(words);
    EXPECT_EQ(outcome.code, cli::kUsage) << outcome.err;
    EXPECT_THAT(outcome.err, testing::StartsWith("qmp-call: "));
  }
}

TEST_F(QmpCall, ShowsTheEventsAskedFor) {
  const FakeQmpServer server(path, [](Peer& peer) {
    if (!peer.negotiate()) return;
    peer.event("RTC_CHANGE", {{"offset", 1}});
    peer.event("STOP");
    peer.send("{\"event\": \"RESUME\", \"timestamp\": {\"seconds\": -1, \"microseconds\": -1}}\r\n");
  });
  const Outcome outcome = call({"-s", path, "--watch=STOP,RESUME"});
  EXPECT_EQ(outcome.code, cli::kFailed) << "the peer went away";
  EXPECT_EQ(outcome.out, "2023-11-14T22:13:20.123456Z  STOP\n(no time)  RESUME\n");
}

TEST_F(QmpCall, PrintsErrorsAndEventsOnlyWhereQuiet) {
  const FakeQmpServer server(path, script());
  const Outcome good = call({"-s", path, "-q", "query-status"});
  EXPECT_EQ(good.code, cli::kOk) << good.err;
  EXPECT_EQ(good.out + good.err, "");
  EXPECT_EQ(call({"-s", path, "-q", "--json", "query-status"}).out, "");
  const Outcome bad = call({"-s", path, "--quiet", "nonsense"});
  EXPECT_EQ(bad.code, cli::kFailed);
  EXPECT_THAT(bad.err, HasSubstr("nonsense has not been found"));
  EXPECT_EQ(call({"-s", path, "-q", "-v", "stop"}).code, cli::kUsage);
}

TEST_F(QmpCall, ColoursOnlyWhenTold) {
  const FakeQmpServer server(path, [](Peer& peer) {
    if (peer.negotiate()) peer.event("STOP");
  });
  EXPECT_THAT(call({"-s", path, "--watch", "--color=always"}).out, HasSubstr("\x1b[1mSTOP\x1b[0m"));
  EXPECT_THAT(call({"-s", path, "--watch", "--color", "never"}).out, HasSubstr("  STOP\n"));
  EXPECT_THAT(call({"-s", path, "--watch"}).out, HasSubstr("  STOP\n")) << "no terminal";
  EXPECT_EQ(call({"-s", path, "--watch", "--color=red"}).code, cli::kUsage);
  const test::FakeProc proc;
  proc.add(7, "qemu-system-x86", "/usr/bin/qemu-system-x86_64", {"qemu-system-x86_64", "-name", "web1"});
  EXPECT_THAT(call({"--proc", proc.path(), "--list", "--color=always"}).out,
              testing::StartsWith("\x1b[1mPID"));
}

TEST_F(QmpCall, EndsAWatchOnItsTimeAndOnASignal) {
  const FakeQmpServer server(path, [](Peer& peer) {
    if (!peer.negotiate()) return;
    peer.event("STOP", {{"x", "y"}});
    peer.stay_silent();
  });
  EXPECT_EQ(call({"-s", path, "--watch", "-d", "10ms"}).code, cli::kOk);
  test::ChildProcess child({test::binary("qmp-call"), "-s", path, "--watch", "--json"});
  const auto line = child.wait_line("STOP");
  ASSERT_TRUE(line);
  EXPECT_EQ(json::parse(*line).at("wall_us").as_int64(), 1'700'000'000'123'456);
  child.signal(SIGINT);
  const auto status = child.wait();
  ASSERT_TRUE(status);
  EXPECT_EQ(status->code, cli::kOk);
}

TEST_F(QmpCall, FindsTheMonitorByPidAndByName) {
  const FakeQmpServer server(path, script());
  const test::FakeProc proc;
  proc.add(7, "qemu-system-x86", "/usr/bin/qemu-system-x86_64",
           {"qemu-system-x86_64", "-name", "web1", "-qmp", "unix:" + path + ",server=on,wait=off"});
  proc.add(8, "qemu-system-x86", "/usr/bin/qemu-system-x86_64", {"qemu-system-x86_64", "-name", "mute"});
  EXPECT_EQ(call({"--proc", proc.path(), "-p", "7", "query-status"}).code, cli::kOk);
  EXPECT_EQ(call({"--proc", proc.path(), "-n", "web1", "query-status"}).code, cli::kOk);
  const Outcome mute = call({"--proc", proc.path(), "-n", "mute", "query-status"});
  EXPECT_EQ(mute.code, cli::kEnvironment);
  EXPECT_THAT(mute.err, HasSubstr("process 8 has no QMP socket"));
  EXPECT_THAT(call({"--proc", proc.path(), "-n", "web2", "x"}).err,
              HasSubstr("no QEMU of this host is named \"web2\""));
}

TEST_F(QmpCall, ListsQemusAsTableAndAsJson) {
  const test::FakeProc proc;
  EXPECT_THAT(call({"--proc", proc.path(), "--list"}).out, HasSubstr("no QEMU process"));
  proc.add(7, "qemu-system-x86", "/usr/bin/qemu-system-x86_64",
           {"qemu-system-x86_64", "-name",
            "we\x1b"
            "b",
            "-accel", "kvm", "-qmp", "unix:/run/a,server=on"});
  proc.add_thread(7, 70, "CPU 0/KVM");
  proc.add_thread(7, 71, "CPU 1/KVM");
  const Outcome table = call({"--proc", proc.path(), "--list"});
  EXPECT_EQ(table.code, cli::kOk);
  EXPECT_EQ(table.out.find('\x1b'), std::string::npos);
  EXPECT_THAT(table.out, HasSubstr("kvm    plain  70,71         /run/a\n"));
  const auto document = json::parse(call({"--proc", proc.path(), "--list", "--json"}).out);
  EXPECT_EQ(document.at("schema").as_string(), "vmwhy.qmp-list/1");
  EXPECT_EQ(document.at("processes").at(0).at("pid").as_int64(), 7);
}

}  // namespace
}  // namespace vmwhy::qmp_call
