// SPDX-License-Identifier: BSD-2-Clause
// qmp-pausewatch beside clients that hold every monitor of the VM: it listens, and says the same and more.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json/serialize.hpp>
#include <filesystem>

#include "tests/support/capability.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/qemu.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

/// A VM with no monitor left for anybody: the test holds both.
struct HeldVm {
  HeldVm(const TempDir& dir, QemuOptions options) : vm(dir, std::move(options)), second(vm.monitor()) {}
  QemuProcess vm;
  QmpProbe second;
};

const boost::json::object& details_of(const IncidentJson& incident, std::string_view key) {
  static const boost::json::object kNone;
  const auto* value = incident.at("details").as_object().if_contains(key);
  return value != nullptr && value->is_object() ? value->get_object() : kNone;
}

testing::AssertionResult is_this_test(const boost::json::object& client, std::string_view command) {
  const auto* pid = client.if_contains("pid");
  if (pid == nullptr || pid->to_number<pid_t>() != ::getpid())
    return testing::AssertionFailure() << "another client: " << boost::json::serialize(client);
  for (const char* key : {"comm", "command_line", "user", "parents", "command_id", "monitor"})
    if (text_of(client, key).empty()) return testing::AssertionFailure() << "no " << key;
  if (text_of(client, "command") != command) return testing::AssertionFailure() << text_of(client, "command");
  return testing::AssertionSuccess();
}

TEST(Listening, StopAndContAreProvenWithWhoSentThem) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  const TempDir dir;
  HeldVm held(dir, {.name = "held1", .boot = "idle.bin"});
  held.vm.cont();
  Watcher watch(dir, {"-n", "held1"},
                "watching held1 (pid " + std::to_string(held.vm.pid()) + ") by listening");
  held.vm.stop();
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "operator-stop", "proven"));
  EXPECT_TRUE(is_this_test(details_of(incident, "sent_by"), "stop"));
  EXPECT_TRUE(has_evidence(incident, "qmp", "sent stop"));
  const std::string open = boost::json::serialize(incident.at("not_proved"));
  EXPECT_NE(open.find("query-block"), std::string::npos) << "what was not asked: " << open;
  held.vm.run_state();  // The owner's own question: its answer counts.
  held.vm.cont();
  const auto over = watch.ended("pause");
  EXPECT_EQ(text_of(over, "ended_by"), "RESUME");
  EXPECT_EQ(text_of(over, "run_state"), "paused");
  EXPECT_TRUE(is_this_test(details_of(over, "resumed_by"), "cont"));
  watch.finish();
}

TEST(Listening, StorageThatFillsUpIsNamedAsWithAMonitorOfItsOwn) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  VMWHY_NEEDS(mount);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  HeldVm held(
      dir, {.name = "held2", .boot = "writer.bin", .args = disk(sparse_file(small / "disk.raw", 64 << 20))});
  Watcher watch(dir, {"-p", std::to_string(held.vm.pid())}, "by listening");
  held.vm.cont();
  const auto incident = watch.incident("pause");
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  EXPECT_TRUE(has_evidence(incident, "qmp", "No space left on device"));
  ASSERT_TRUE(held.vm.wait_run_state("io-error"));
  watch.finish();
}

TEST(Listening, StateWrittenToAFileAfterAStopIsASaveByThatClient) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  const TempDir dir;
  HeldVm held(dir, {.name = "held3", .boot = "idle.bin"});
  held.vm.call("migrate-set-capabilities", {{"capabilities", {{{"capability", "events"}, {"state", true}}}}});
  held.vm.cont();
  Watcher watch(dir, {"-n", "held3"}, "by listening");
  held.vm.stop();
  held.vm.call("migrate", {{"uri", "exec:cat > " + (dir / "state")}});
  const auto incident = watch.incident([](const IncidentJson& report) {
    return text_of(report, "kind") == "pause" && text_of(report, "cause") == "snapshot-or-save";
  });
  EXPECT_TRUE(is_verdict(incident, "snapshot-or-save", "proven"));
  EXPECT_TRUE(is_this_test(details_of(incident, "sent_by"), "migrate"));
  ASSERT_TRUE(held.vm.wait_run_state("postmigrate"));
  watch.finish();
}

TEST(Listening, MigrationThatCompletedNamesWhoBeganIt) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  const TempDir dir;
  HeldVm held(dir, {.name = "held4", .boot = "idle.bin"});
  held.vm.call("migrate-set-capabilities", {{"capabilities", {{{"capability", "events"}, {"state", true}}}}});
  held.vm.cont();
  Watcher watch(dir, {"-n", "held4"}, "by listening");
  held.vm.call("migrate", {{"uri", "exec:cat > " + (dir / "state")}});
  const auto incident = watch.incident([](const IncidentJson& report) {
    return text_of(report, "kind") == "pause" && text_of(report, "cause") == "migration-completed";
  });
  EXPECT_TRUE(is_verdict(incident, "migration-completed", "proven"));
  EXPECT_TRUE(is_this_test(details_of(incident, "sent_by"), "migrate"));
  watch.finish();
}

TEST(Listening, CommandOfTheOwnerWithoutAReplyIsAStall) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  const TempDir dir;
  // The main loop opens a FIFO that nobody writes to, and stands.
  const std::string fifo = dir / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  HeldVm held(dir, {.name = "held5", .boot = "idle.bin"});
  held.vm.cont();
  Watcher watch(dir, {"-n", "held5", "--qmp-deadline", "500ms"}, "by listening");
  held.vm.qmp().send(
      "chardev-add",
      {{"id", "c0"}, {"backend", {{"type", "file"}, {"data", {{"in", fifo}, {"out", dir / "out"}}}}}});
  const auto incident = watch.incident("stall");
  EXPECT_EQ(text_of(incident, "cause"), "qemu-main-loop-blocked");
  EXPECT_EQ(text_of(incident.at("details").as_object(), "command"), "chardev-add");
  const UniqueFd let_go(::open(fifo.c_str(), O_WRONLY | O_CLOEXEC));
  EXPECT_EQ(text_of(watch.ended("stall"), "ended_by"), "the overdue reply came");
  watch.finish();
}

TEST(Listening, OwnerThatIsKilledIsNamedAndItsMonitorStaysFree) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  const TempDir dir;
  QemuProcess vm(dir, {.name = "held6", .boot = "idle.bin"});
  vm.cont();
  ChildProcess owner({binary("qmp-call"), "-s", vm.monitor(), "--watch", "query-status"});
  ASSERT_TRUE(owner.wait_line("running"));
  Watcher watch(dir, {"-s", vm.monitor()}, "its monitor is held by qmp-call");
  // A client that was there for less than ten seconds would be a passer-by.
  const TimePoint lasting = std::chrono::steady_clock::now() + std::chrono::seconds(11);
  ASSERT_TRUE(wait_until([&] { return std::chrono::steady_clock::now() > lasting; }));
  owner.signal(SIGKILL);
  const auto incident = watch.incident("event");
  EXPECT_TRUE(is_verdict(incident, "monitor-lost", "proven"));
  const auto& client = details_of(incident, "client");
  EXPECT_EQ(client.at("pid").to_number<pid_t>(), owner.pid());
  EXPECT_EQ(text_of(client, "comm"), "qmp-call");
  QmpProbe back(vm.monitor());  // It greets: nobody took it.
  EXPECT_EQ(text_of(watch.ended("event"), "ended_by"), "connected again");
  watch.finish();
}

TEST(Listening, MonitorOfAManagementLayerIsNotConnectedTo) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  const std::string folder = dir / "libvirt/qemu/domain-1-web1";
  std::filesystem::create_directories(folder);
  const std::string socket = folder + "/monitor.sock";
  ChildProcess qemu({"qemu-system-x86_64", "-accel", "tcg", "-display", "none", "-nodefaults", "-m", "32",
                     "-S", "-name", "guest=held7", "-qmp", "unix:" + socket + ",server=on,wait=off"});
  ASSERT_TRUE(wait_until([&] { return std::filesystem::exists(socket); }));
  Watcher watch(dir, {"-p", std::to_string(qemu.pid())}, "is its manager's");
  QmpProbe manager(socket);  // It greets at once.
  EXPECT_FALSE(manager.call("query-status").empty());
  watch.process().signal(SIGINT);
  EXPECT_TRUE(watch.process().wait());
}

}  // namespace
}  // namespace vmwhy::test
