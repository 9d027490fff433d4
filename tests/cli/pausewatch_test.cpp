// SPDX-License-Identifier: BSD-2-Clause
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <filesystem>

#include "tests/support/capability.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/fake_vm.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"
#include "trace/reader.hpp"

namespace vmwhy::test {
namespace {

std::vector<std::string> pausewatch(std::vector<std::string> args) {
  args.insert(args.begin(), binary("qmp-pausewatch"));
  return args;
}

Output run(std::vector<std::string> args) {
  return run_program(pausewatch(std::move(args)));
}

boost::json::object parse_line(std::string_view line) {
  boost::system::error_code error;
  const auto value = boost::json::parse(boost::json::string_view(line), error);
  EXPECT_FALSE(error) << line;
  return value.is_object() ? value.get_object() : boost::json::object{};
}

boost::json::object only_incident(const boost::json::object& document) {
  const auto& incidents = document.at("incidents").as_array();
  EXPECT_EQ(incidents.size(), 1u);
  return incidents.at(0).as_object();
}

TEST(Pausewatch, UsageErrorsExitWithTwo) {
  EXPECT_EQ(run({}).status.code, 2);
  EXPECT_EQ(run({"-a", "-d", "soon"}).status.code, 2);
  EXPECT_EQ(run({"--no-such-option"}).status.code, 2);
  const Output help = run({"--help"});
  EXPECT_EQ(help.status.code, 0);
  EXPECT_NE(help.out.find("Examples:"), std::string::npos);
}

TEST(Pausewatch, CheckPrintsTheSensorMatrix) {
  const Output text = run({"--check"});
  EXPECT_EQ(text.status.code, 0);
  for (const char* sensor : {"proc ", "kmsg ", "psi ", "cgroup ", "reach ", "exit ", "bpf "})
    EXPECT_NE(text.out.find(sensor), std::string::npos) << sensor << text.out;
  const auto document = parse_line(run({"--check", "--json"}).out);
  EXPECT_EQ(document.at("schema").as_string(), "vmwhy.check/1");
  EXPECT_GE(document.at("sensors").as_array().size(), 7u);
}

TEST(Pausewatch, CheckSaysWhatIsWrongWithAMonitor) {
  const TempDir dir;
  const Output missing = run({"--check", "-s", dir / "none"});
  EXPECT_EQ(missing.status.code, 3);
  EXPECT_NE(missing.out.find("does not exist"), std::string::npos) << missing.out;
  const FakeVm vm(dir / "q", "web1");
  EXPECT_EQ(run({"--check", "-s", vm.address()}).status.code, 0);
}

TEST(Pausewatch, SaysThatASocketDoesNotExist) {
  const TempDir dir;
  const Output result = run({"--no-output", "-s", dir / "none"});
  EXPECT_EQ(result.status.code, 3);
  EXPECT_NE(result.err.find((dir / "none") + ": no such socket"), std::string::npos) << result.err;
}

TEST(Pausewatch, SaysThatNobodyListens) {
  const TempDir dir;
  { const FakeQmpServer gone(dir / "q", nullptr); }
  if (!std::filesystem::exists(dir / "q")) dir.write("q", "");
  const Output result = run({"--no-output", "-s", dir / "q"});
  EXPECT_EQ(result.status.code, 3);
  EXPECT_NE(result.err.find(dir / "q"), std::string::npos) << result.err;
}

TEST(Pausewatch, SaysThatAPeerIsNoMonitor) {
  const TempDir dir;
  const FakeQmpServer server(dir / "q", [](Peer& peer) {
    peer.send("SSH-2.0-OpenSSH_9.2\r\n");
    peer.stay_silent();
  });
  const Output result = run({"--no-output", "-s", dir / "q"});
  EXPECT_EQ(result.status.code, 3);
  EXPECT_NE(result.err.find("QMP"), std::string::npos) << result.err;
}

TEST(Pausewatch, SaysThatAMonitorIsHeldByAnotherClient) {
  const TempDir dir;
  const FakeQmpServer server(dir / "q", nullptr);
  const Output result = run({"--no-output", "--qmp-deadline", "200ms", "-d", "1500ms", "-s", dir / "q"});
  EXPECT_EQ(result.status.code, 3);
  EXPECT_NE(result.err.find(dir / "q"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("client"), std::string::npos) << result.err;
}

TEST(Pausewatch, SaysThatAUserMayNotConnect) {
  VMWHY_NEEDS(root);
  const TempDir dir;
  const FakeVm vm(dir / "q", "web1");
  std::filesystem::permissions(dir / "q", std::filesystem::perms(0600));
  for (auto args :
       {pausewatch({"--no-output", "-s", dir / "q"}),
        std::vector{binary("qmp-call"), std::string("-s"), dir / "q", std::string("query-status")}}) {
    args.front() = dir.copy_for_everybody(args.front());
    args.insert(args.begin(), {"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"});
    const Output result = run_program(args);
    EXPECT_EQ(result.status.code, 3) << result.err;
    EXPECT_NE(result.err.find("permission denied; run as root, or as the user that QEMU runs as"),
              std::string::npos)
        << result.err;
  }
}

TEST(Pausewatch, SaysWhatItDoesNotSeeWithoutRights) {
  VMWHY_NEEDS(root);
  const TempDir dir;
  const FakeVm vm(dir / "q", "web1");
  std::filesystem::permissions(dir.path(), std::filesystem::perms(0755));
  std::filesystem::permissions(dir / "q", std::filesystem::perms(0666));
  auto args = pausewatch({"--no-output", "-d", "200ms", "-s", dir / "q"});
  args.front() = dir.copy_for_everybody(args.front());
  args.insert(args.begin(), {"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"});
  EXPECT_NE(run_program(args).err.find("off: bpf, tap, qemu: "), std::string::npos);
  args.emplace_back("--no-bpf");
  EXPECT_EQ(run_program(args).err.find("off: "), std::string::npos);
}

TEST(Pausewatch, ReportsAPauseAsOneJsonLine) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  ChildProcess child(pausewatch({"--no-output", "--json", "--once", "--exit-code", "-s", vm.address()}));
  ASSERT_TRUE(child.wait_error_line("watching"));
  vm.pause("paused");
  const auto status = child.wait();
  ASSERT_TRUE(status);
  EXPECT_EQ(status->code, 4) << child.err();
  const auto document = parse_line(child.out());
  EXPECT_EQ(document.at("schema").as_string(), "vmwhy.verdict/1");
  EXPECT_EQ(document.at("report").as_string(), "new");
  const auto incident = only_incident(document);
  EXPECT_EQ(incident.at("kind").as_string(), "pause");
  EXPECT_EQ(incident.at("run_state").as_string(), "paused");
  EXPECT_EQ(incident.at("vm").as_object().at("name").as_string(), "web1");
  EXPECT_FALSE(incident.at("cause").as_string().empty());
}

TEST(Pausewatch, ReportsTheEndOfAPauseToo) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  ChildProcess child(pausewatch({"--no-output", "-s", vm.address()}));
  ASSERT_TRUE(child.wait_error_line("watching"));
  vm.pause("paused");
  ASSERT_TRUE(child.wait_line("web1"));
  vm.resume();
  EXPECT_TRUE(child.wait_line("goes on"));
  child.signal(SIGTERM);
  EXPECT_EQ(child.wait()->code, 0);
  EXPECT_NE(child.err().find("1 incident"), std::string::npos) << child.err();
}

TEST(Pausewatch, SendsNothingThatChangesAVm) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  ChildProcess child(pausewatch({"--no-output", "--once", "-v", "-s", vm.address()}));
  ASSERT_TRUE(child.wait_error_line("watching"));
  vm.pause("io-error");
  ASSERT_TRUE(child.wait());
  const auto commands = vm.commands();
  EXPECT_GT(commands.size(), 8u);
  for (const std::string& command : commands) {
    EXPECT_TRUE(command.starts_with("query-")) << command;
    EXPECT_NE(child.err().find(command), std::string::npos) << command << " was not printed by -v";
  }
}

TEST(Pausewatch, WatchesSeveralMonitorsAtOnce) {
  const TempDir dir;
  FakeVm first(dir / "a", "web1"), second(dir / "b", "web2");
  ChildProcess child(pausewatch(
      {"--no-output", "--json", "-s", first.address(), "-s", second.address(), "-s", dir / "none"}));
  ASSERT_TRUE(child.wait_error_line("no such socket"));
  ASSERT_TRUE(child.wait_error_line("watching"));
  ASSERT_TRUE(child.wait_error_line("watching"));
  second.pause("paused");
  const auto line = child.wait_line("\"report\":\"new\"");
  ASSERT_TRUE(line);
  EXPECT_EQ(only_incident(parse_line(*line)).at("vm").as_object().at("name").as_string(), "web2");
  child.signal(SIGINT);
  EXPECT_EQ(child.wait()->code, 0);
}

TEST(Pausewatch, ReportsAMonitorThatDoesNotAnswer) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  ChildProcess child(
      pausewatch({"--no-output", "--json", "--once", "--qmp-deadline", "1s", "-s", vm.address()}));
  ASSERT_TRUE(child.wait_error_line("watching"));
  vm.stall();
  const auto line = child.wait_line("\"kind\":\"stall\"");
  ASSERT_TRUE(line) << child.err();
  EXPECT_EQ(child.wait()->code, 0);
}

TEST(Pausewatch, AsksAgainHowMuchAMigrationThrottles) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  ChildProcess child(pausewatch({"--no-output", "--json", "--once", "-s", vm.address()}));
  ASSERT_TRUE(child.wait_error_line("watching"));
  vm.migrate();
  const auto line = child.wait_line("\"cause\":\"migration-throttle\"");
  ASSERT_TRUE(line) << child.err();
  const auto incident = only_incident(parse_line(*line));
  EXPECT_EQ(incident.at("confidence").as_string(), "proven");
  EXPECT_EQ(incident.at("details").as_object().at("throttle_percentage").as_int64(), 60);
  EXPECT_EQ(child.wait()->code, 0);
}

TEST(Pausewatch, EndsWhenTheOnlyMonitorHasGone) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  ChildProcess child(pausewatch({"--no-output", "-s", vm.address()}));
  ASSERT_TRUE(child.wait_error_line("watching"));
  vm.vanish();
  const auto status = child.wait();
  ASSERT_TRUE(status);
  EXPECT_EQ(status->code, 0);
  EXPECT_NE(child.err().find("closed the connection"), std::string::npos) << child.err();
}

TEST(Pausewatch, SigintClosesTheTraceProperly) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  const std::string path = dir / "t.vmt";
  ChildProcess child(pausewatch({"-o", path, "-M", "bug=7", "-s", vm.address()}));
  ASSERT_TRUE(child.wait_error_line("watching"));
  vm.pause("paused");
  ASSERT_TRUE(child.wait_line("web1"));
  child.signal(SIGINT);
  EXPECT_EQ(child.wait()->code, 0);
  EXPECT_NE(child.err().find("interrupted"), std::string::npos);
  auto reader = trace::Reader::open(path);
  ASSERT_TRUE(reader) << to_string(reader.error());
  std::uint64_t collected = 0, ends = 0;
  (*reader)->for_each([&](const trace::RecordView& record) {
    if (record.type() == trace::RecordType::collected) ++collected;
    if (record.type() == trace::RecordType::watch && record.as<trace::Watch>().event == 2) ++ends;
  });
  EXPECT_TRUE((*reader)->report().ended);
  EXPECT_EQ((*reader)->report().damaged_blocks, 0u);
  EXPECT_EQ(collected, 1u);
  EXPECT_EQ(ends, 2u);
  EXPECT_EQ((*reader)->meta().at("marks").as_object().at("bug").as_string(), "7");
  EXPECT_EQ((*reader)->meta().at("tool").as_string(), "qmp-pausewatch");
}

TEST(Pausewatch, ClosesTheTraceWhenNobodyReadsItsReports) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  const std::string path = dir / "t.vmt";
  ChildProcess child(pausewatch({"-o", path, "-s", vm.address()}));
  ASSERT_TRUE(child.wait_error_line("watching"));
  child.close_stdout();
  vm.pause("paused");
  const auto status = child.wait();
  ASSERT_TRUE(status);
  EXPECT_EQ(status->code, 0) << child.err();
  auto reader = trace::Reader::open(path);
  ASSERT_TRUE(reader);
  (*reader)->for_each([](const trace::RecordView&) {});
  EXPECT_TRUE((*reader)->report().ended);
}

TEST(Pausewatch, WritesTheTraceBesideTheUserWhereNoneIsNamed) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  ChildProcess::Options options;
  options.args = pausewatch({"-s", vm.address()});
  options.args[0] = std::filesystem::absolute(options.args[0]);
  options.folder = dir.path();
  ChildProcess child(options);
  EXPECT_TRUE(child.wait_error_line("watching"));
  child.signal(SIGINT);
  EXPECT_EQ(child.wait()->code, 0);
  int traces = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir.path()))
    traces += entry.path().extension() == ".vmt" && entry.path().filename().string().starts_with("vmwhy-");
  EXPECT_EQ(traces, 1);
}

TEST(Pausewatch, RefusesATraceThatCannotBeWritten) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  const Output result = run({"-o", "/nonexistent/t.vmt", "-s", vm.address()});
  EXPECT_EQ(result.status.code, 3);
  EXPECT_NE(result.err.find("/nonexistent/t.vmt"), std::string::npos);
}

TEST(Pausewatch, GoesOnWatchingWhenTheDiskOfTheTraceIsFull) {
  VMWHY_NEEDS(mount);
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  std::filesystem::create_directory(dir / "small");
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=64k");
  ChildProcess child(pausewatch({"-v", "-o", small / "t.vmt", "-s", vm.address()}));
  ASSERT_TRUE(child.wait_error_line("watching"));
  fill_up(small.path());
  ASSERT_TRUE(child.wait_error_line("recording has ended")) << child.err();
  vm.pause("paused");
  EXPECT_TRUE(child.wait_line("web1"));
  child.signal(SIGINT);
  ASSERT_TRUE(child.wait_error_line("t.vmt, ")) << child.err();  // The last line: how many were lost.
  EXPECT_EQ(child.wait()->code, 0);
  EXPECT_EQ(child.err().find("No space left"), child.err().rfind("No space left"))
      << "said twice: " << child.err();
}

TEST(Pausewatch, ExpectExitsWithZeroWhenThePauseComes) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  ChildProcess child(pausewatch({"--expect", "any/run_state=paused", "--within", "60s", "-s", vm.address(),
                                 "--", "sh", "-c", "touch " + (dir / "began") + "; sleep 600"}));
  ASSERT_TRUE(wait_until([&] { return std::filesystem::exists(dir / "began"); }));
  vm.pause("paused");
  const auto status = child.wait();
  ASSERT_TRUE(status);
  EXPECT_EQ(status->code, 0) << child.err();
}

TEST(Pausewatch, ExpectDoesNotCountWhatWasSoBeforeTheCommand) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  vm.pause("paused");
  // A monitor that answers late, as it may on a busy machine, is no pause.
  ChildProcess child(
      pausewatch({"--expect", "any/kind=pause", "--within", "1h", "-s", vm.address(), "--", "true"}));
  EXPECT_TRUE(child.wait_error_line("before the command")) << child.err();
  child.signal(SIGINT);
  const auto status = child.wait();
  ASSERT_TRUE(status);
  EXPECT_EQ(status->code, 1) << child.err();
}

TEST(Pausewatch, TellsOnceThatNobodyListens) {
  const Output result = run({"--no-output", "-d", "2500ms", "-s", "127.0.0.1:1"});
  EXPECT_EQ(result.status.code, 3) << result.err;
  const std::string said = "nobody listens on tcp:127.0.0.1:1; qmp-call --list";
  const std::size_t first = result.err.find(said);
  ASSERT_NE(first, std::string::npos) << result.err;
  EXPECT_EQ(result.err.find(said, first + 1), std::string::npos) << result.err;
}

TEST(Pausewatch, LeavesAnEarlierTraceAloneAndMakesNoneForNothing) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  const std::string path = dir / "t.vmt";
  ChildProcess child(pausewatch({"-o", path, "-s", vm.address()}));
  ASSERT_TRUE(child.wait_error_line("watching"));
  child.signal(SIGINT);
  ASSERT_TRUE(child.wait());
  const std::string earlier = read_file(path);
  const Output again = run({"-o", path, "-d", "500ms", "-s", vm.address()});
  EXPECT_EQ(again.status.code, 3);
  EXPECT_NE(again.err.find("earlier recording"), std::string::npos) << again.err;
  EXPECT_EQ(read_file(path), earlier);
  EXPECT_EQ(run({"-o", dir / "none.vmt", "-p", "2147483647"}).status.code, 3);
  EXPECT_FALSE(std::filesystem::exists(dir / "none.vmt"));
}

TEST(Pausewatch, EndsAtOnceWhereAProcessIdIsNoQemus) {
  const std::string own = std::to_string(::getpid());
  const Output no_qemu = run({"--no-output", "-d", "1h", "-p", own});
  EXPECT_EQ(no_qemu.status.code, 3);
  EXPECT_NE(no_qemu.err.find("process " + own + " is no QEMU"), std::string::npos) << no_qemu.err;
  EXPECT_EQ(std::count(no_qemu.err.begin(), no_qemu.err.end(), '\n'), 1) << no_qemu.err;
  const Output nobody = run({"--no-output", "-d", "1h", "-p", "2147483647"});
  EXPECT_EQ(nobody.status.code, 3);
  EXPECT_NE(nobody.err.find("process 2147483647 does not exist"), std::string::npos) << nobody.err;
  EXPECT_EQ(run({"-p", own, "--expect", "any", "--within", "1h"}).status.code, 125);
}

TEST(Pausewatch, WaitsForASocketAndSaysAtTheEndThatItDidNotCome) {
  const TempDir dir;
  const Output result = run({"--no-output", "-d", "300ms", "-s", dir / "none"});
  EXPECT_EQ(result.status.code, 3);
  EXPECT_NE(result.err.find("waiting for " + (dir / "none")), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("start QEMU with -qmp unix:" + (dir / "none")), std::string::npos) << result.err;
}

TEST(Pausewatch, ExpectExitsWithOneWhenItDoesNot) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  vm.pause("paused");
  const Output result = run({"--expect", "storage-full", "--within", "2s", "-s", vm.address(), "--", "true"});
  EXPECT_EQ(result.status.code, 1) << result.err;
}

TEST(Pausewatch, ExpectExitsWithOneHundredTwentyFiveWhenNothingCanBeTold) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  EXPECT_EQ(run({"--expect", "any", "--within", "500ms", "-s", dir / "none", "--", "true"}).status.code, 125);
  EXPECT_EQ(run({"--expect", "any", "-s", vm.address(), "--", "/nonexistent/repro"}).status.code, 125);
  EXPECT_EQ(run({"--expect", "any", "-s", vm.address(), "--", "sh", "-c", "exit 125"}).status.code, 125);
}

TEST(Pausewatch, ExpectWaitsForASocketThatTheCommandMakes) {
  const TempDir dir;
  std::optional<FakeVm> vm;
  ChildProcess child(pausewatch({"--expect", "any/run_state=paused", "--within", "60s", "-s", dir / "q", "--",
                                 "touch", dir / "started"}));
  ASSERT_TRUE(wait_until([&] { return std::filesystem::exists(dir / "started"); }));
  vm.emplace(dir / "q", "web1");
  vm->pause("paused");
  const auto status = child.wait();
  ASSERT_TRUE(status);
  EXPECT_EQ(status->code, 0) << child.err();
}

TEST(Pausewatch, RunsACommandWhenTheConditionIsSeen) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  const std::string action = "exec echo \"$VMWHY_VM_NAME $VMWHY_CONDITION\" > " + (dir / "seen");
  ChildProcess child(
      pausewatch({"--no-output", "--on", "runstate=paused", "--then", action, "-s", vm.address()}));
  ASSERT_TRUE(child.wait_error_line("watching"));
  vm.pause("paused");
  EXPECT_TRUE(wait_until([&] { return read_file(dir / "seen") == "web1 runstate=paused\n"; }));
  child.signal(SIGINT);
  EXPECT_EQ(child.wait()->code, 0);
}

TEST(Pausewatch, ItsCommandsRunAtTheUsualPriority) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  run({"--expect", "any", "--within", "60s", "-s", vm.address(), "--", "sh", "-c",
       "nice > " + (dir / "nice") + "; exit 125"});
  EXPECT_EQ(read_file(dir / "nice"), run_program({"nice"}).out);
}

TEST(Pausewatch, EndsWhenTheConditionSaysSo) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  ChildProcess child(pausewatch({"--no-output", "--on", "event=STOP", "--then", "exit", "-s", vm.address()}));
  ASSERT_TRUE(child.wait_error_line("watching"));
  vm.pause("paused");
  ASSERT_TRUE(child.wait());
  EXPECT_NE(child.err().find("'event=STOP' was seen"), std::string::npos) << child.err();
}

TEST(Pausewatch, CollectsEvidenceWhenARoundTripIsSlow) {
  const TempDir dir;
  FakeVm vm(dir / "q", "web1");
  const std::string path = dir / "t.vmt";
  ChildProcess child(pausewatch({"-o", path, "--qmp-deadline", "60s", "--on", "qmp-rtt>200ms", "--then",
                                 "snapshot", "-s", vm.address()}));
  ASSERT_TRUE(child.wait_error_line("watching"));
  vm.stall();
  ASSERT_TRUE(child.wait_error_line("qmp-rtt>200 ms")) << child.err();
  child.signal(SIGINT);
  ASSERT_TRUE(child.wait());
  auto reader = trace::Reader::open(path);
  ASSERT_TRUE(reader);
  std::uint64_t collected = 0;
  (*reader)->for_each(
      [&](const trace::RecordView& r) { collected += r.type() == trace::RecordType::collected; });
  EXPECT_EQ(collected, 1u);
}

}  // namespace
}  // namespace vmwhy::test
