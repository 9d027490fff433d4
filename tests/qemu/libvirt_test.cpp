// SPDX-License-Identifier: BSD-2-Clause
// qmp-pausewatch below a real libvirt, which holds the domain's only monitor.

#include <gtest/gtest.h>
#include <unistd.h>

#include <iostream>

#include "tests/support/capability.hpp"
#include "tests/support/libvirt.hpp"
#include "tests/support/mount.hpp"
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

std::string floppy(const std::string& image) {
  return "<disk type='file' device='floppy'><driver name='qemu' type='raw'/><source file='" + guest(image) +
         "'/><target dev='fda'/><readonly/></disk>";
}

std::string hard_disk(const std::string& image, const std::string& format) {
  return "<disk type='file'><driver name='qemu' type='" + format +
         "' error_policy='stop' rerror_policy='stop'/><source file='" + image +
         "'/><target dev='vda' bus='virtio'/></disk>";
}

/// A pause that began after `earlier` and whose verdict, corrected or at once, is a save.
IncidentJson save_after(Watcher& watch, const IncidentJson& earlier) {
  const auto begin = [](const IncidentJson& incident) {
    const auto* at = incident.if_contains("begin_ns");
    return at != nullptr ? at->to_number<std::uint64_t>() : 0;
  };
  return watch.incident([&](const IncidentJson& report) {
    return text_of(report, "kind") == "pause" && text_of(report, "cause") == "snapshot-or-save" &&
           begin(report) > begin(earlier);
  });
}

TEST(Libvirt, ItsSnapshotsAndManagedSaveAreToldAndAResetIsNoPause) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  VMWHY_NEEDS(libvirt);
  const TempDir dir;
  const std::string name = "vmwhy-snap-" + std::to_string(::getpid()), image = dir / "disk.qcow2";
  ASSERT_EQ(run_program({"qemu-img", "create", "-q", "-f", "qcow2", image, "64M"}).status.code, 0);
  Libvirt libvirt;
  libvirt.start_domain(name, floppy("idle.bin") + hard_disk(image, "qcow2"));
  Watcher watch(dir, {"-n", name}, "by listening: its monitor is held by libvirtd");

  ASSERT_EQ(libvirt.virsh({"reset", name}).status.code, 0);
  EXPECT_EQ(libvirt.state_of(name), "running (booted)");

  const Output inside = libvirt.virsh({"snapshot-create-as", name, "inside"});
  ASSERT_EQ(inside.status.code, 0) << inside.err;
  const auto internal = save_after(watch, {});
  beside(libvirt, name, internal);
  EXPECT_TRUE(is_verdict(internal, "snapshot-or-save", "proven"));
  EXPECT_TRUE(is_libvirtd(internal, "sent_by", libvirt.daemon_pid(), "human-monitor-command"));
  ASSERT_EQ(libvirt.virsh({"snapshot-delete", name, "inside"}).status.code, 0);

  const Output outside = libvirt.virsh({"snapshot-create-as", name, "outside", "--memspec",
                                        (dir / "memory") + ",snapshot=external", "--diskspec",
                                        "vda,snapshot=external,file=" + (dir / "overlay.qcow2")});
  ASSERT_EQ(outside.status.code, 0) << outside.err;
  const auto external = save_after(watch, internal);
  beside(libvirt, name, external);
  EXPECT_TRUE(is_verdict(external, "snapshot-or-save", "proven"));
  EXPECT_TRUE(is_libvirtd(external, "sent_by", libvirt.daemon_pid(), "migrate"));
  EXPECT_EQ(libvirt.state_of(name), "running (unpaused)");

  const Output dump = libvirt.virsh({"dump", name, dir / "core", "--memory-only"});
  ASSERT_EQ(dump.status.code, 0) << dump.err;
  const auto dumped = save_after(watch, external);
  beside(libvirt, name, dumped);
  EXPECT_TRUE(is_verdict(dumped, "snapshot-or-save", "proven"));
  EXPECT_TRUE(is_libvirtd(dumped, "sent_by", libvirt.daemon_pid(), "dump-guest-memory"));
  EXPECT_EQ(libvirt.state_of(name), "running (unpaused)");

  ASSERT_EQ(libvirt.virsh({"managedsave", name}).status.code, 0);
  const auto saved = save_after(watch, dumped);
  beside(libvirt, name, saved);
  EXPECT_EQ(libvirt.state_of(name), "shut off (saved)");
  EXPECT_TRUE(is_verdict(saved, "snapshot-or-save", "proven"));
  EXPECT_TRUE(is_libvirtd(saved, "sent_by", libvirt.daemon_pid(), "migrate"));
  watch.incident("exit");
  watch.finish();
  const std::string cat = run_program({binary("vm-trace"), "cat", watch.trace()}).out;
  EXPECT_NE(cat.find("system_reset"), std::string::npos);
}

TEST(Libvirt, IoErrorUnderItsErrorPolicyIsProvenAndGoesOnByIt) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(tap);
  VMWHY_NEEDS(libvirt);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  const std::string name = "vmwhy-full-" + std::to_string(::getpid());
  Libvirt libvirt;
  libvirt.start_domain(name, floppy("writer.bin") + hard_disk(sparse_file(small / "d.raw", 64 << 20), "raw"),
                       {"--paused"});
  Watcher watch(dir, {"-n", name}, "by listening: its monitor is held by libvirtd");
  ASSERT_EQ(libvirt.virsh({"resume", name}).status.code, 0);
  const auto incident = watch.incident("pause");
  beside(libvirt, name, incident);
  EXPECT_TRUE(wait_until([&] { return libvirt.state_of(name) == "paused (I/O error)"; }));
  EXPECT_TRUE(is_verdict(incident, "storage-full", "proven"));
  EXPECT_TRUE(has_remedy(incident, "virsh resume " + name));
  small.remount("size=100m");
  ASSERT_EQ(libvirt.virsh({"resume", name}).status.code, 0);
  EXPECT_TRUE(is_libvirtd(watch.ended("pause"), "resumed_by", libvirt.daemon_pid(), "cont"));
  watch.finish();
}

}  // namespace
}  // namespace vmwhy::test
