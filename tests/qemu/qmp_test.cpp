// SPDX-License-Identifier: BSD-2-Clause
// Client, discovery and qmp-call against a real QEMU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <boost/json/parse.hpp>
#include <filesystem>
#include <memory>

#include "qmp/discovery.hpp"
#include "qmp/unix_sockets.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/qemu.hpp"

namespace vmwhy {
namespace {

using testing::HasSubstr;

TEST(QmpCallOnQemu, FindsTheVmByNameAndAsksIt) {
  VMWHY_NEEDS(qemu);
  const test::TempDir dir;
  test::QemuProcess vm(dir, {.name = "qmpcall" + std::to_string(::getpid())});
  const auto output =
      test::run_program({test::binary("qmp-call"), "-n", vm.name(), "--json", "query-status"});
  ASSERT_EQ(output.status.code, 0) << output.err;
  EXPECT_EQ(boost::json::parse(output.out).at("return").at("status").as_string(), "prelaunch");
}

TEST(QmpCallOnQemu, SeesTheEventsOfStopAndCont) {
  VMWHY_NEEDS(qemu);
  const test::TempDir dir;
  test::QemuProcess vm(dir, {.name = "vm"});
  test::ChildProcess watch({test::binary("qmp-call"), "-s", vm.monitor(), "--watch", "query-status"});
  ASSERT_TRUE(watch.wait_line("prelaunch"));
  vm.cont();
  EXPECT_TRUE(watch.wait_line("RESUME"));
  vm.stop();
  EXPECT_TRUE(watch.wait_line("STOP"));
}

TEST(QmpCallOnQemu, TellsAStoppedProcessFromABusyMonitor) {
  VMWHY_NEEDS(qemu);
  const test::TempDir dir;
  test::QemuProcess vm(dir, {.name = "vm"});
  test::ChildProcess holder({test::binary("qmp-call"), "-s", vm.monitor(), "--watch", "query-status"});
  ASSERT_TRUE(holder.wait_line("prelaunch"));
  const std::vector<std::string> ask{test::binary("qmp-call"), "-s",    vm.monitor(),
                                     "--qmp-deadline",         "300ms", "query-status"};
  const auto busy = test::run_program(ask);
  EXPECT_EQ(busy.status.code, 1);
  EXPECT_THAT(busy.err, HasSubstr("another client holds the monitor"));
  vm.process().signal(SIGSTOP);
  ASSERT_TRUE(test::wait_until([&] { return qmp::state_of(static_cast<std::uint32_t>(vm.pid())) == 'T'; }));
  const auto stopped = test::run_program(ask);
  EXPECT_EQ(stopped.status.code, 1);
  EXPECT_THAT(stopped.err, HasSubstr("is stopped by a signal (T)"));
  vm.process().signal(SIGCONT);
}

TEST(PausewatchOnQemu, AMonitorThatIsHeldIsNoStall) {
  VMWHY_NEEDS(qemu);
  const test::TempDir dir;
  test::QemuProcess vm(dir, {.name = "vm"});
  test::ChildProcess holder({test::binary("qmp-call"), "-s", vm.monitor(), "--watch", "query-status"});
  ASSERT_TRUE(holder.wait_line("prelaunch"));
  test::ChildProcess::Options options;
  // By another name than the one on QEMU's command line.
  options.args = {std::filesystem::absolute(test::binary("qmp-pausewatch")), "--json", "--no-output", "-s",
                  std::filesystem::path(vm.monitor()).filename()};
  options.folder = dir.path();
  test::ChildProcess watch(options);
  EXPECT_TRUE(watch.wait_error_line("its monitor is held by qmp-call (pid " + std::to_string(holder.pid())))
      << watch.err();
  watch.signal(SIGINT);
  EXPECT_TRUE(watch.wait());
  EXPECT_EQ(watch.out(), "");
}

TEST(QmpDiscoveryOnQemu, KnowsARealProcess) {
  VMWHY_NEEDS(qemu);
  const test::TempDir dir;
  test::QemuProcess vm(dir, {.name = "vm", .args = {"-uuid", "6d1f0c1e-0000-4000-8000-000000000001"}});
  const auto found =
      qmp::inspect_qemu(static_cast<std::uint32_t>(vm.pid()), {.deadline = std::chrono::seconds(60)});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->name.substr(0, 2), "vm");
  EXPECT_EQ(found->uuid, "6d1f0c1e-0000-4000-8000-000000000001");
  EXPECT_EQ(found->accelerator, "tcg");
  EXPECT_FALSE(found->unreadable);
  EXPECT_GT(found->start_ns, 0u);
  ASSERT_EQ(found->monitors.size(), 2u);
  // The test's own client holds one of them.
  int held = 0;
  for (const auto& monitor : found->monitors) {
    held += monitor.held;
    EXPECT_EQ(monitor.held_by_pid, monitor.held ? static_cast<std::uint32_t>(::getpid()) : 0);
  }
  EXPECT_EQ(held, 1);
}

TEST(QmpPausewatch, TakesUpAVmOfThatNameThatComesAgain) {
  VMWHY_NEEDS(qemu);
  const test::TempDir dir, again;
  const std::string name = "again" + std::to_string(::getpid());
  const auto watching = [&](const test::QemuProcess& vm) {
    return "watching " + name + " (pid " + std::to_string(vm.pid()) + ")";
  };
  auto first = std::make_unique<test::QemuProcess>(dir, test::QemuOptions{.name = name});
  test::ChildProcess watch({test::binary("qmp-pausewatch"), "-n", name, "-d", "5m", "--no-output"});
  ASSERT_TRUE(watch.wait_error_line(watching(*first))) << watch.err();
  first->process().signal(SIGKILL);
  EXPECT_TRUE(watch.wait_line("qemu-killed")) << watch.out() << watch.err();
  first.reset();
  const test::QemuProcess second(again, {.name = name});
  // Where it is faster than QEMU it says first that it is not connected, then that it is.
  EXPECT_TRUE(watch.wait_error_line(" by " + again.path().string())) << watch.err();
  watch.signal(SIGINT);
  EXPECT_TRUE(watch.wait());
}

}  // namespace
}  // namespace vmwhy
