// SPDX-License-Identifier: BSD-2-Clause
// Pauses of a migration, at both ends.

#include <gtest/gtest.h>

#include "tests/support/capability.hpp"
#include "tests/support/qemu.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

namespace json = boost::json;

bool runs(const QemuProcess& vm) {
  return wait_until([&] { return vm.serial() == "G"; });
}

void enable(QemuProcess& vm, std::initializer_list<const char*> capabilities) {
  json::array list;
  for (const auto* name : capabilities) list.push_back(json::object{{"capability", name}, {"state", true}});
  EXPECT_TRUE(vm.call("migrate-set-capabilities", {{"capabilities", list}}).contains("return"));
}

std::string migration_status(QemuProcess& vm) {
  const auto reply = vm.call("query-migrate");
  const auto& info = reply.at("return").as_object();
  return info.contains("status") ? std::string(info.at("status").as_string()) : "";
}

bool wait_migration(QemuProcess& vm, std::string_view status) {
  return wait_until([&] { return migration_status(vm) == status; });
}

TEST(Migration, DestinationThatWaitsIsNamed) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin", .args = {"-incoming", "defer"}});
  ASSERT_EQ(vm.run_state(), "inmigrate");
  Watcher watch(dir, {&vm});
  const auto incident =
      watch.incident([](const IncidentJson& report) { return text_of(report, "kind") == "pause"; });
  EXPECT_EQ(text_of(incident, "cause"), "incoming-wait");
  EXPECT_EQ(text_of(incident, "run_state"), "inmigrate");
  watch.finish();
}

TEST(Migration, SourceAfterItsEndIsNamedAndContIsWarnedOf) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  vm.call("migrate", {{"uri", "exec:cat >/dev/null"}});
  ASSERT_TRUE(vm.wait_run_state("postmigrate"));
  const auto incident = watch.incident(
      [](const IncidentJson& report) { return text_of(report, "cause") == "migration-completed"; });
  EXPECT_TRUE(has_evidence(incident, "qmp", "postmigrate"));
  watch.finish();
}

TEST(Migration, SwitchoverThatIsHeldIsNamed) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  enable(vm, {"events", "pause-before-switchover"});
  vm.call("migrate", {{"uri", "exec:cat >/dev/null"}});
  ASSERT_TRUE(wait_migration(vm, "pre-switchover"));
  ASSERT_EQ(vm.run_state(), "finish-migrate");
  const auto incident = watch.incident("pause");
  EXPECT_EQ(text_of(incident, "cause"), "migration-switchover");
  EXPECT_EQ(text_of(incident, "run_state"), "finish-migrate");
  EXPECT_TRUE(has_evidence(incident, "qmp", "pre-switchover"));
  watch.finish();
}

// A failed migration lets the source run on: not a pause, and no lie about one.
TEST(Migration, FailureOfARunningSourceIsNoPause) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  enable(vm, {"events"});
  vm.call("migrate", {{"uri", "unix:" + (dir / "nobody-listens")}});
  ASSERT_TRUE(wait_migration(vm, "failed"));
  EXPECT_EQ(vm.run_state(), "running");
  EXPECT_TRUE(none_of_kind(watch.finish(), "pause"));
}

// Both ends of a post-copy whose link broke. There is no run state of that name: the source says
// finish-migrate, the destination says running.
TEST(Migration, PostcopyThatLostItsLinkIsNamedAtBothEnds) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(userfaultfd);
  const TempDir dir;
  const std::string uri = "unix:" + (dir / "migration");
  QemuProcess source(dir, {.name = "source", .boot = "ring3_loop.elf", .memory_mb = 64, .oob = true});
  QemuProcess target(
      dir, {.name = "target", .boot = "ring3_loop.elf", .args = {"-incoming", "defer"}, .memory_mb = 64});
  enable(source, {"events", "postcopy-ram"});
  enable(target, {"events", "postcopy-ram"});
  source.cont();
  ASSERT_TRUE(wait_until([&] { return source.serial().starts_with("LMU"); }));
  target.cont();
  ASSERT_TRUE(target.call("migrate-incoming", {{"uri", uri}}).contains("return"));
  source.call("migrate-set-parameters", {{"max-bandwidth", 20000}, {"max-postcopy-bandwidth", 20000}});
  Watcher watch(dir, {&source, &target});
  source.call("migrate", {{"uri", uri}});
  ASSERT_TRUE(wait_migration(source, "active"));
  source.call("migrate-start-postcopy");
  ASSERT_TRUE(wait_migration(source, "postcopy-active"));
  ASSERT_TRUE(wait_migration(target, "postcopy-active"));
  source.qmp().call_oob("migrate-pause");
  ASSERT_TRUE(wait_migration(source, "postcopy-paused"));
  ASSERT_TRUE(wait_migration(target, "postcopy-paused"));
  EXPECT_EQ(source.run_state(), "finish-migrate");

  const auto at_source = watch.incident([](const IncidentJson& report) {
    return text_of(report, "cause") == "postcopy-paused" &&
           text_of(report.at("vm").as_object(), "name") == "source";
  });
  EXPECT_TRUE(has_evidence(at_source, "qmp", "postcopy-paused"));
  const auto at_target = watch.incident([](const IncidentJson& report) {
    return text_of(report, "cause") == "postcopy-paused" &&
           text_of(report.at("vm").as_object(), "name") == "target";
  });
  EXPECT_TRUE(has_evidence(at_target, "qmp", "postcopy-paused"));
  watch.finish();
}

}  // namespace
}  // namespace vmwhy::test
