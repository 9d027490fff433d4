// SPDX-License-Identifier: BSD-2-Clause
// Pauses of a migration, at both ends.

#include <gtest/gtest.h>

#include "tests/support/capability.hpp"
#include "tests/support/migration.hpp"
#include "tests/support/qemu.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

namespace json = boost::json;

bool runs(const QemuProcess& vm) {
  return wait_until([&] { return vm.serial() == "G"; });
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

// The guest writes to its memory faster than the link takes it, so QEMU makes it slower, more and more.
TEST(Migration, ThrottleOfAnAutoConvergeIsNamed) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "dirty.bin"});
  enable(vm, {"events", "auto-converge"});
  const json::object slow{{"max-bandwidth", 1 << 20},
                          {"downtime-limit", 1},
                          {"cpu-throttle-initial", 30},
                          {"cpu-throttle-increment", 30}};
  ASSERT_TRUE(vm.call("migrate-set-parameters", slow).contains("return"));
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(runs(vm));
  vm.call("migrate", {{"uri", "exec:cat >/dev/null"}});
  const auto incident = watch.incident("stall");
  EXPECT_TRUE(is_verdict(incident, "migration-throttle", "proven"));
  EXPECT_GE(incident.at("details").as_object().at("throttle_percentage").as_int64(), 60);
  EXPECT_TRUE(has_evidence(incident, "qmp", "cpu-throttle-percentage"));
  vm.call("migrate_cancel");
  EXPECT_EQ(text_of(watch.ended("stall"), "cause"), "migration-throttle");
  EXPECT_TRUE(none_of_kind(watch.finish(), "pause"));
}

// Both ends of a post-copy whose link broke. There is no run state of that name: the source says
// finish-migrate, the destination says running.
TEST(Migration, PostcopyThatLostItsLinkIsNamedAtBothEnds) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(userfaultfd);
  const TempDir dir;
  const std::string path = dir / "migration";
  QemuProcess source(dir, {.name = "source", .boot = "ring3_loop.elf", .memory_mb = 64, .oob = true});
  QemuProcess target(
      dir, {.name = "target", .boot = "ring3_loop.elf", .args = {"-incoming", "defer"}, .memory_mb = 64});
  source.cont();
  ASSERT_TRUE(wait_until([&] { return source.serial().starts_with("LMU"); }));
  target.cont();
  prepare_post_copy(source, target, path);
  Watcher watch(dir, {&source, &target});
  ASSERT_TRUE(lose_post_copy(source, target, path));
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
