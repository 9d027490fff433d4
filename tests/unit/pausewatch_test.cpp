// SPDX-License-Identifier: BSD-2-Clause
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <boost/json/parse.hpp>
#include <sstream>

#include "act/command.hpp"
#include "record/secrets.hpp"
#include "storage/node_map.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"
#include "tools/qmp-pausewatch/expect.hpp"
#include "tools/qmp-pausewatch/options.hpp"
#include "tools/qmp-pausewatch/targets.hpp"
#include "tools/qmp-pausewatch/trace_file.hpp"
#include "tools/qmp-pausewatch/trigger.hpp"

namespace vmwhy::qmp_pausewatch {
namespace {

Parsed parse(std::vector<const char*> args, std::string* said = nullptr) {
  args.insert(args.begin(), "qmp-pausewatch");
  std::ostringstream out, err;
  Parsed parsed = parse_options(static_cast<int>(args.size()), args.data(), out, err);
  if (said) *said = out.str() + err.str();
  return parsed;
}

TEST(PausewatchOptions, TakesEveryTargetAndTheCommand) {
  const auto parsed = parse({"-s",       "/a", "-s",    "tcp:h:1",  "-p",
                             "4,5",      "-n", "web1",  "-a",       "-d",
                             "5m",       "-M", "bug=7", "--expect", "storage-full/node=d0",
                             "--within", "3s", "--",    "sh",       "-c",
                             "x y"});
  ASSERT_TRUE(parsed.options);
  const Options& o = *parsed.options;
  EXPECT_EQ(o.sockets, (std::vector<std::string>{"/a", "tcp:h:1"}));
  EXPECT_EQ(o.pids, (std::vector<std::uint32_t>{4, 5}));
  EXPECT_EQ(o.names, std::vector<std::string>{"web1"});
  EXPECT_TRUE(o.all);
  EXPECT_EQ(o.duration, std::chrono::minutes(5));
  EXPECT_EQ(o.marks.at(0).second, "7");
  EXPECT_EQ(o.expect->cause, "storage-full");
  EXPECT_EQ(o.within, std::chrono::seconds(3));
  EXPECT_EQ(o.command, (std::vector<std::string>{"sh", "-c", "x y"}));
}

TEST(PausewatchOptions, RefusesWhatMakesNoSense) {
  const std::vector<std::pair<std::vector<const char*>, const char*>> wrong = {
      {{}, "nothing to watch"},
      {{"-p", "x"}, "not a process id"},
      {{"-a", "-M", "novalue"}, "KEY=VALUE"},
      {{"-a", "--then", "exit"}, "--on"},
      {{"-a", "--on", "weather=bad"}, "conditions are"},
      {{"-a", "--on", "event=STOP", "--then", "dance"}, "actions are"},
      {{"-a", "--expect", "node=d0"}, "begin with a cause"},
      {{"-a", "--expect", "storage-ful"}, "no cause is named storage-ful; there are colo, "},
      {{"-a", "--on", "cause=storage-ful"}, "no cause is named storage-ful"},
      {{"-s", ""}, "-s: "},
      {{"-s", "host:port"}, "HOST:PORT"},
      {{"-a", "--", "ls"}, "--expect"},
      {{"-a", "-o", "x", "--no-output"}, "exclude each other"},
      {{"-a", "--qmp-deadline", "0s"}, "above zero"},
  };
  for (const auto& [args, expected] : wrong) {
    std::string said;
    const auto parsed = parse(args, &said);
    EXPECT_FALSE(parsed.options) << expected;
    EXPECT_EQ(parsed.exit_code, cli::kUsage) << said;
    EXPECT_NE(said.find(expected), std::string::npos) << said;
  }
}

TEST(PausewatchTrigger, PairsConditionsWithActions) {
  const auto triggers = pair_triggers({"runstate=io-error", "qmp-rtt>1500ms"}, {"exec echo $X", "snapshot"});
  ASSERT_TRUE(triggers);
  EXPECT_EQ(triggers->at(0).condition.kind, Condition::Kind::run_state);
  EXPECT_EQ(triggers->at(0).action.command, "echo $X");
  EXPECT_EQ(triggers->at(1).condition.above, std::chrono::milliseconds(1500));
  EXPECT_EQ(triggers->at(1).action.kind, Action::Kind::snapshot);
  EXPECT_EQ(pair_triggers({"event=A", "event=B"}, {"exit"})->at(1).action.kind, Action::Kind::exit);
  EXPECT_EQ(pair_triggers({"event=A"}, {})->at(0).action.kind, Action::Kind::snapshot);
  EXPECT_FALSE(pair_triggers({"event=A", "event=B", "event=C"}, {"exit", "exit"}));
}

causes::Incident incident() {
  causes::Incident out;
  out.id = 1;
  out.vm.name = "web1";
  out.run_state = "io-error";
  out.verdict.cause = "storage-full";
  out.verdict.confidence = causes::Confidence::likely;
  out.verdict.details = {{"node", "d0"}, {"free_bytes", 0}, {"path", "/var/lib/a"}};
  return out;
}

TEST(PausewatchExpect, MatchesCauseDetailsAndFields) {
  for (const char* text : {"storage-full", "any", "storage-full/node=d0", "storage-full/free_bytes=0/vm=web1",
                           "storage-full/run_state=io-error/kind=pause", "storage-full/confidence=likely",
                           "storage-full/confidence=unknown", "storage-full/path=/var/lib/a/node=d0"})
    EXPECT_TRUE(Expectation::parse(text)->matches(incident())) << text;
  for (const char* text : {"storage-io-error", "storage-full/node=d1", "storage-full/confidence=proven",
                           "storage-full/nothing=1", "any/vm=web2", "any/kind=stall"})
    EXPECT_FALSE(Expectation::parse(text)->matches(incident())) << text;
}

TEST(PausewatchNodes, FindsTheLocalFileBehindWhatQemuCallsAFileName) {
  EXPECT_EQ(storage::local_path("/var/a.raw"), "/var/a.raw");
  EXPECT_EQ(storage::local_path("rel/a.raw"), "rel/a.raw");
  EXPECT_EQ(storage::local_path("file:/a"), "/a");
  EXPECT_EQ(storage::local_path("blkdebug:conf:/a"), "/a");
  EXPECT_EQ(storage::local_path("blkdebug::/a"), "/a");
  EXPECT_EQ(storage::local_path("/with:colon"), "/with:colon");
  EXPECT_EQ(
      storage::local_path(
          R"(json:{"driver":"qcow2","file":{"driver":"blkdebug","image":{"driver":"file","filename":"/a"}}})"),
      "/a");
  for (const char* none : {"", "nbd://h/x", "rbd:pool/x", "json:{", "json:[]",
                           "json:{\"driver\":\"nbd\",\"filename\":\"x\"}", "null-co://"})
    EXPECT_EQ(storage::local_path(none), "") << none;
}

TEST(PausewatchNodes, ListsNodesOfAReplyAndSkipsTheNetwork) {
  const auto nodes = storage::parse_named_block_nodes(boost::json::parse(
      R"([{"node-name":"d0","drv":"qcow2","file":"/a"},{"node-name":"f0","drv":"file","file":"/a"},
          {"node-name":"n","drv":"nbd","file":"nbd+unix:///?socket=/s"},{"drv":"file","file":"/b"},{"node-name":7},5])"));
  EXPECT_EQ(nodes, (std::vector<storage::NodePath>{{"d0", "/a"}, {"f0", "/a"}}));
  EXPECT_TRUE(storage::parse_named_block_nodes(boost::json::parse("{}")).empty());
}

TEST(PausewatchNodes, ReadsDescriptorSets) {
  const auto sets = storage::parse_fdsets(
      boost::json::parse(R"([{"fdset-id":2,"fds":[{"fd":30},{"fd":31}]},{"fds":[]},3])"));
  ASSERT_EQ(sets.size(), 1u);
  EXPECT_EQ(sets[0].first, "/dev/fdset/2");
  EXPECT_EQ(sets[0].second, 30u);
}

TEST(PausewatchSecrets, AreMaskedAndTheRestIsLeftAlone) {
  EXPECT_EQ(record::mask_secrets(R"({"file": "https://me:s3cret@host/a"})"),
            R"({"file": "https://me:***@host/a"})");
  EXPECT_EQ(record::mask_secrets(R"("rbd:p/i:id=admin:key=AQBz==:mon_host=h")"),
            R"("rbd:p/i:id=admin:key=***:mon_host=h")");
  EXPECT_EQ(record::mask_secrets(R"({"password": "x", "a": 1})"), R"({"password": "***", "a": 1})");
  const std::string harmless = R"({"file": "nbd://host:10809/disk@2", "key": 5, "t": "a:b@c"})";
  EXPECT_EQ(record::mask_secrets(harmless), harmless);
}

TEST(PausewatchTargets, MatchesNamesPidsAndSockets) {
  const test::TempDir dir;
  Options options;
  options.names = {"web2", "11111111-2222-3333-4444-555555555555"};
  options.pids = {7};
  options.sockets = {dir.write("s", "")};
  std::vector<qmp::QemuProcess> found(5);
  for (std::uint32_t i = 0; i < 5; ++i) found[i].pid = 5 + i;
  found[0].name = "web1";
  found[1].name = "web2";
  found[3].uuid = "11111111-2222-3333-4444-555555555555";
  found[4].monitors.push_back({"x", options.sockets[0], false, 0, "", 0, 0});
  Targets targets(options);
  const auto taken = targets.take(found);
  ASSERT_EQ(taken.size(), 4u);
  EXPECT_EQ(taken[0].process.pid, 9u);
  EXPECT_EQ(taken[0].asked_for, options.sockets[0]);
  EXPECT_EQ(taken[1].process.pid, 6u);
  EXPECT_FALSE(taken[1].asked_for);
  EXPECT_TRUE(targets.missing().empty());
  EXPECT_TRUE(targets.take(found).empty());
}

TEST(PausewatchTargets, KnowsAMonitorByAnyNameOfItsFile) {
  const test::TempDir dir;
  const std::string path = dir.write("s", "");
  std::filesystem::create_symlink(path, dir / "link");
  struct stat fact;
  ASSERT_EQ(::stat(path.c_str(), &fact), 0);
  // Its file is known by what discovery found: a path within a sick QEMU's mounts is not touched.
  const qmp::MonitorSocket monitor{path,       "/proc/7/root" + path, true,       7,
                                   "libvirtd", fact.st_dev,           fact.st_ino};
  for (const std::string& text :
       {path, "unix:" + path, dir / "link", (dir.path() / ".." / dir.path().filename() / "s").string(),
        std::filesystem::relative(path).string()})
    EXPECT_TRUE(is_monitor(monitor, text)) << text;
  for (const std::string& text : {dir / "other", std::string("127.0.0.1:1"), std::string("@s")})
    EXPECT_FALSE(is_monitor(monitor, text)) << text;
}

TEST(PausewatchTargets, TriesATcpMonitorAgainOnlyAfterASecond) {
  Options options;
  options.sockets = {"127.0.0.1:1"};
  Targets targets(options);
  EXPECT_EQ(targets.take({}).size(), 1u);
  targets.expect_again("127.0.0.1:1");
  EXPECT_FALSE(targets.sockets_came());
  EXPECT_TRUE(test::wait_until([&] { return targets.sockets_came(); }));
}

TEST(PausewatchTargets, ASocketWhoseVmEndedIsTakenAgainOnlyWhenItIsAnother) {
  const test::TempDir dir;
  Options options;
  options.sockets = {"unix:" + (dir / "s")};
  Targets targets(options);
  EXPECT_TRUE(targets.take({}).empty());
  EXPECT_EQ(targets.missing(),
            std::vector<std::string>{options.sockets[0] + ": no such socket; start QEMU with -qmp unix:" +
                                     (dir / "s") + ",server=on,wait=off"});
  dir.write("s", "");
  EXPECT_TRUE(targets.sockets_came());
  EXPECT_EQ(targets.take({}).size(), 1u);
  targets.expect_again(options.sockets[0]);
  EXPECT_FALSE(targets.sockets_came());
  std::filesystem::rename(dir.write("other", ""), dir / "s");
  EXPECT_TRUE(targets.sockets_came());
}

TEST(PausewatchTargets, AVmThatANameNamedAndThatEndedIsTakenWhenItComesAgain) {
  Options options;
  options.names = {"web1"};
  options.pids = {6};
  Targets targets(options);
  qmp::QemuProcess first, second, other;
  first.pid = 5;
  second.pid = 8;
  other.pid = 6;
  first.name = second.name = "web1";
  EXPECT_EQ(targets.take({first, other}).size(), 2u);
  EXPECT_FALSE(targets.waits());
  targets.ended(other);
  EXPECT_FALSE(targets.waits()) << "a process id does not come again";
  targets.ended(first);
  EXPECT_TRUE(targets.waits());
  EXPECT_TRUE(targets.missing().empty()) << "it was there";
  EXPECT_TRUE(targets.take({first}).empty());
  const auto taken = targets.take({second});
  ASSERT_EQ(taken.size(), 1u);
  EXPECT_EQ(taken[0].process.pid, 8u);
  EXPECT_FALSE(targets.waits());
}

TEST(PausewatchTraceName, IsAPlainFileName) {
  Options options;
  Target target;
  target.process.name = "../evil name\n";
  const std::string name = default_trace_name(options, {target});
  EXPECT_TRUE(name.starts_with("vmwhy-.._evil_name_-")) << name;
  EXPECT_TRUE(name.ends_with("Z.vmt"));
  options.all = true;
  EXPECT_TRUE(default_trace_name(options, {}).starts_with("vmwhy-all-"));
}

TEST(PausewatchCommand, TellsExitStatusAndMissingPrograms) {
  auto command = act::Command::start({"sh", "-c", "exit $CODE"}, {{"CODE", "9"}});
  ASSERT_TRUE(command);
  std::optional<int> status;
  while (!status) status = command->ended();
  EXPECT_EQ(*status, 9);
  EXPECT_FALSE(act::Command::start({"/nonexistent/program"}));
}

}  // namespace
}  // namespace vmwhy::qmp_pausewatch
