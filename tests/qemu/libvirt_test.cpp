// SPDX-License-Identifier: BSD-2-Clause
// qmp-pausewatch below a real libvirt, which holds the domain's only monitor.

#include <gtest/gtest.h>
#include <unistd.h>

#include <iostream>

#include "tests/support/capability.hpp"
#include "tests/support/libvirt.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

/// Prints libvirt's own reason beside ours.
void beside(const Libvirt& libvirt, const std::string& domain, const IncidentJson& incident) {
  std::cout << "libvirt: " << libvirt.state_of(domain) << "; vmwhy: " << text_of(incident, "cause") << " ("
            << text_of(incident, "confidence") << ")\n";
}

testing::AssertionResult is_libvirtd(const IncidentJson& incident, std::string_view key, pid_t daemon,
                                     std::string_view command) {
  const auto* client = incident.at("details").as_object().if_contains(key);
  if (client == nullptr) return testing::AssertionFailure() << "no " << key;
  const auto& who = client->as_object();
  if (who.at("pid").to_number<pid_t>() != daemon || text_of(who, "comm") != "libvirtd")
    return testing::AssertionFailure() << "another client: " << text_of(who, "sender");
  if (text_of(who, "command") != command || text_of(who, "command_id").find("libvirt-") == std::string::npos)
    return testing::AssertionFailure() << text_of(who, "command") << " " << text_of(who, "command_id");
  return testing::AssertionSuccess();
}

TEST(Libvirt, ItsDomainsPausesNameLibvirtdAndTheCommandsId) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  VMWHY_NEEDS(libvirt);
  const TempDir dir;
  const std::string name = "vmwhy-lv-" + std::to_string(::getpid());
  Libvirt libvirt;
  libvirt.start_domain(name);
  ASSERT_EQ(libvirt.state_of(name), "running (booted)");
  const std::string by_listening = "by listening: its monitor is held by libvirtd";
  {
    Watcher watch(dir, {"-n", name}, by_listening);
    ASSERT_EQ(libvirt.virsh({"suspend", name}).status.code, 0);
    const auto stop = watch.incident("pause");
    beside(libvirt, name, stop);
    EXPECT_EQ(libvirt.state_of(name), "paused (user)");
    EXPECT_TRUE(is_verdict(stop, "operator-stop", "proven"));
    EXPECT_TRUE(is_libvirtd(stop, "sent_by", libvirt.daemon_pid(), "stop"));
    EXPECT_TRUE(has_evidence(stop, "owner", "libvirt says: "));
    EXPECT_TRUE(has_remedy(stop, "virsh resume " + name));
    ASSERT_EQ(libvirt.virsh({"resume", name}).status.code, 0);
    EXPECT_TRUE(is_libvirtd(watch.ended("pause"), "resumed_by", libvirt.daemon_pid(), "cont"));
    const std::string state = dir / "state";
    ASSERT_EQ(libvirt.virsh({"save", name, state}).status.code, 0);
    const auto save = watch.incident([](const IncidentJson& report) {
      return text_of(report, "kind") == "pause" && text_of(report, "cause") == "snapshot-or-save";
    });
    beside(libvirt, name, save);
    EXPECT_EQ(libvirt.state_of(name), "shut off (saved)");
    EXPECT_TRUE(is_verdict(save, "snapshot-or-save", "proven"));
    EXPECT_TRUE(is_libvirtd(save, "sent_by", libvirt.daemon_pid(), "migrate"));
    EXPECT_EQ(text_of(watch.incident("exit"), "cause"), "qemu-killed");
    watch.finish();
    ASSERT_EQ(libvirt.virsh({"restore", state}).status.code, 0);
    EXPECT_EQ(libvirt.state_of(name), "running (restored)");
  }
  const TempDir again;
  Watcher watch(again, {"-n", name}, by_listening);
  // A client that was there for less than ten seconds would be a passer-by.
  const TimePoint lasting = std::chrono::steady_clock::now() + std::chrono::seconds(11);
  ASSERT_TRUE(wait_until([&] { return std::chrono::steady_clock::now() > lasting; }));
  const pid_t killed = libvirt.daemon_pid();
  libvirt.kill_daemon();
  const auto lost = watch.incident("event");
  EXPECT_TRUE(is_verdict(lost, "monitor-lost", "proven"));
  EXPECT_EQ(lost.at("details").at("client").at("pid").to_number<pid_t>(), killed);
  libvirt.start_daemon();
  EXPECT_EQ(text_of(watch.ended("event"), "ended_by"), "connected again");
  // libvirt gives up on a QEMU that does not die within its time: a busy machine takes longer.
  ASSERT_TRUE(wait_until([&] {
    return libvirt.virsh({"destroy", name}).status.code == 0 ||
           libvirt.state_of(name).starts_with("shut off");
  }));
  const auto end = watch.incident("exit");
  beside(libvirt, name, end);
  EXPECT_EQ(text_of(end, "cause"), "qemu-killed");
  watch.finish();
}

}  // namespace
}  // namespace vmwhy::test
