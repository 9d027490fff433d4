// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/discovery.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json/serialize.hpp>

#include "qmp/command_line.hpp"
#include "tests/support/fake_proc.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::qmp {
namespace {

using namespace std::chrono_literals;

using Arguments = std::vector<std::string>;
constexpr const char* kBinary = "/usr/bin/qemu-system-x86_64";

class QmpDiscovery : public testing::Test {
 protected:
  // Generous where nothing hangs: a loaded machine must not make a readable process unreadable.
  DiscoveryOptions options(std::chrono::milliseconds deadline = 60s) const { return {proc.path(), deadline}; }
  QemuProcess inspect(std::uint32_t pid) const { return inspect_qemu(pid, options()).value(); }

  test::FakeProc proc;
};

TEST_F(QmpDiscovery, FindsQemusByExecutableOrName) {
  proc.add(10, "qemu-system-x86", kBinary, {kBinary, "-name", "a"});
  proc.add(11, "qemu-kvm", "/usr/libexec/qemu-kvm (deleted)", {"qemu-kvm"});
  proc.add(12, "kvm", "", {"/usr/bin/kvm", "-id", "100"});  // exe not readable
  proc.add(13, "web1", kBinary, {kBinary});                 // -name process=web1
  proc.add(14, "qemu-system-x86", "/bin/bash", {"bash"});   // a wrapper script
  proc.add(15, "qemu-img", "/usr/bin/qemu-img", {"qemu-img"});
  proc.add(16, "kvm-nx-lpage-re", "", {});
  std::vector<std::uint32_t> pids;
  for (const QemuProcess& process : find_qemus(options())) pids.push_back(process.pid);
  EXPECT_EQ(pids, (std::vector<std::uint32_t>{10, 11, 12, 13}));
  const auto listed = list_qemu_pids(options());
  ASSERT_EQ(listed.size(), 4u);
  EXPECT_EQ(listed[0].second, 100 * 1'000'000'000ull / static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK)));
}

TEST_F(QmpDiscovery, ListsPidsWithoutReadingCommandLines) {
  proc.add(10, "qemu-system-x86", kBinary, {});
  proc.hang_cmdline(10);
  EXPECT_EQ(list_qemu_pids(options()).size(), 1u);
}

TEST_F(QmpDiscovery, ListsAProcessWhoseCommandLineHangs) {
  proc.add(20, "qemu-system-x86", kBinary, {}, 777);
  proc.hang_cmdline(20);
  proc.add_thread(20, 21, "CPU 0/KVM");
  proc.link(20, "fd/5", "socket:[900]");
  proc.write(20, "net/unix",
             "Num       RefCount Protocol Flags    Type St Inode Path\n"
             "0000000000000000: 00000002 00000000 00010000 0001 01   900 /run/vm/qmp.sock\n");
  proc.add(30, "qemu-system-x86", kBinary, {kBinary, "-name", "well"});
  const auto begin = std::chrono::steady_clock::now();
  const auto found = find_qemus(options(300ms));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_TRUE(found[0].unreadable);
  EXPECT_EQ(found[0].pid, 20u);
  EXPECT_EQ(found[0].name, "");
  // Once more: its thread still hangs, and no second one is sent after it.
  const auto again = inspect_qemu(20, options(300ms));
  ASSERT_TRUE(again);
  EXPECT_TRUE(again->unreadable);
}

TEST_F(QmpDiscovery, KnowsWhatItCanOfAProcessWhoseCommandLineHangs) {
  proc.add(22, "qemu-system-x86", kBinary, {});
  proc.hang_cmdline(22);
  proc.add_thread(22, 23, "CPU 0/KVM");
  proc.link(22, "fd/5", "socket:[900]");
  proc.write(22, "net/unix",
             "Num       RefCount Protocol Flags    Type St Inode Path\n"
             "0000000000000000: 00000002 00000000 00010000 0001 01   900 /run/vm/qmp.sock\n");
  const QemuProcess process = inspect_qemu(22, options(5s)).value();
  EXPECT_TRUE(process.unreadable);
  ASSERT_EQ(process.threads.size(), 2u);
  EXPECT_EQ(process.threads[1].vcpu, 0);
  ASSERT_EQ(process.monitors.size(), 1u);
  EXPECT_EQ(process.monitors[0].reachable_path, "/run/vm/qmp.sock");
}

TEST_F(QmpDiscovery, ReadsALibvirtDomainWithASocketPassedByDescriptor) {
  proc.add(
      40, "qemu-system-x86", kBinary,
      {kBinary,
       "-name",
       "guest=web,,1,debug-threads=on",
       "-S",
       "-machine",
       "pc-q35-7.2,usb=off",
       "-accel",
       "kvm",
       "-uuid",
       "6d1f0c1e-0000-4000-8000-000000000001",
       "-object",
       R"({"qom-type":"secret","id":"masterKey0","format":"raw","file":"/var/lib/libvirt/key.aes"})",
       "-no-user-config",
       "-chardev",
       "socket,id=charmonitor,fd=27,server=on,wait=off",
       "-mon",
       "chardev=charmonitor,id=monitor,mode=control",
       "-blockdev",
       R"({"driver":"file","filename":"/var/lib/libvirt/images/web.qcow2","node-name":"libvirt-1-storage"})",
       "-blockdev",
       R"({"node-name":"libvirt-1-format","driver":"qcow2","file":"libvirt-1-storage"})"});
  proc.link(40, "fd/27", "socket:[4711]");
  proc.link(40, "fd/28", "socket:[4712]");
  proc.link(40, "fd/12", "anon_inode:kvm-vm");
  proc.write(40, "cgroup", "0::/machine.slice/machine-qemu\\x2d3\\x2dweb.scope/libvirt/emulator\n");
  proc.write(40, "net/unix",
             "Num       RefCount Protocol Flags    Type St Inode Path\n"
             "0000000000000000: 00000002 00000000 00010000 0001 01  4711 /var/lib/libvirt/qemu/domain-3-web "
             "1/monitor.sock\n"
             "0000000000000000: 00000003 00000000 00000000 0001 03  4712 /var/lib/libvirt/qemu/domain-3-web "
             "1/monitor.sock\n"
             "0000000000000000: 00000003 00000000 00000000 0001 03  4713\n");
  proc.add_thread(40, 41, "CPU 0/KVM");
  proc.add_thread(40, 42, "CPU 11/KVM");
  proc.add_thread(40, 43, "IO iothread1");
  const QemuProcess process = inspect(40);
  EXPECT_FALSE(process.unreadable);
  EXPECT_EQ(process.name, "web,1");
  EXPECT_EQ(process.uuid, "6d1f0c1e-0000-4000-8000-000000000001");
  EXPECT_EQ(process.accelerator, "kvm");
  EXPECT_EQ(process.machine, "pc-q35-7.2");
  EXPECT_EQ(process.owner, Owner::libvirt);
  EXPECT_FALSE(process.has_secrets) << "a secret in a file is not on the command line";
  ASSERT_EQ(process.monitors.size(), 1u);
  EXPECT_EQ(process.monitors[0].address, "/var/lib/libvirt/qemu/domain-3-web 1/monitor.sock");
  EXPECT_TRUE(process.monitors[0].held);
  ASSERT_EQ(process.disks.size(), 2u);
  EXPECT_EQ(process.disks[0].node, "libvirt-1-storage");
  EXPECT_EQ(process.disks[0].path, "/var/lib/libvirt/images/web.qcow2");
  EXPECT_EQ(process.disks[1].node, "libvirt-1-format") << "what stands above has the same file";
  EXPECT_EQ(process.disks[1].path, "/var/lib/libvirt/images/web.qcow2");
  std::vector<std::int32_t> vcpus;
  for (const QemuThread& thread : process.threads) vcpus.push_back(thread.vcpu);
  EXPECT_EQ(vcpus, (std::vector<std::int32_t>{-1, 0, 11, -1}));
}

TEST_F(QmpDiscovery, KnowsProxmoxByItsSocketAndTakesNoClientForAMonitor) {
  proc.add(
      50, "kvm", "/usr/bin/qemu-system-x86_64",
      {"/usr/bin/kvm", "-id", "100", "-name", "db,debug-threads=on", "-chardev",
       "socket,id=qmp,path=/var/run/qemu-server/100.qmp,server=on,wait=off", "-mon",
       "chardev=qmp,mode=control", "-chardev", "socket,id=qmp-event,path=/var/run/qmeventd.sock,reconnect=5",
       "-mon", "chardev=qmp-event,mode=control", "-drive",
       "file=/dev/pve/vm-100-disk-0,if=none,id=drive-scsi0,format=raw"});
  proc.write(50, "cgroup", "0::/qemu.slice/100.scope\n");
  const QemuProcess process = inspect(50);
  EXPECT_EQ(process.owner, Owner::proxmox);
  EXPECT_EQ(process.owner_detail, "100");
  EXPECT_EQ(process.accelerator, "kvm");
  ASSERT_EQ(process.monitors.size(), 1u);
  EXPECT_EQ(process.monitors[0].address, "/var/run/qemu-server/100.qmp");
  EXPECT_FALSE(process.monitors[0].held);
  ASSERT_EQ(process.disks.size(), 1u);
  EXPECT_EQ(process.disks[0].node, "drive-scsi0");
}

TEST_F(QmpDiscovery, ReachesIntoAContainer) {
  proc.add(60, "qemu-kvm", "/usr/libexec/qemu-kvm",
           {"/usr/libexec/qemu-kvm", "-name", "guest=default_vmi1,debug-threads=on", "-qmp",
            "unix:/var/run/qmp.sock,server,nowait"});
  proc.write(60, "cgroup", "0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-0123abcd.scope\n");
  proc.link(60, "ns/mnt", "mnt:[2]");
  proc.link(60, "ns/pid", "pid:[2]");
  const QemuProcess process = inspect(60);
  EXPECT_EQ(process.owner, Owner::kubevirt);
  EXPECT_EQ(process.owner_detail, "default_vmi1");
  ASSERT_EQ(process.monitors.size(), 1u);
  EXPECT_EQ(process.monitors[0].address, "/var/run/qmp.sock");
  EXPECT_EQ(process.monitors[0].reachable_path, proc.path() + "/60/root/var/run/qmp.sock");
}

TEST_F(QmpDiscovery, KnowsTheFileOfASocketSoThatNobodyElseMustTouchIt) {
  const test::TempDir dir;
  const std::string path = dir.write("qmp", "");
  struct stat fact {};
  ASSERT_EQ(::stat(path.c_str(), &fact), 0);
  proc.add(62, "qemu-system-x86", kBinary,
           {kBinary, "-qmp", "unix:" + path + ",server=on", "-qmp", "unix:" + path + "-gone,server=on"});
  const QemuProcess process = inspect(62);
  ASSERT_EQ(process.monitors.size(), 2u);
  EXPECT_EQ(process.monitors[0].device, fact.st_dev);
  EXPECT_EQ(process.monitors[0].inode, fact.st_ino);
  EXPECT_EQ(process.monitors[1].inode, 0u);
}

TEST_F(QmpDiscovery, CallsAnotherPidNamespaceAContainer) {
  proc.add(61, "qemu-system-x86", kBinary, {kBinary});
  proc.write(61, "cgroup", "0::/system.slice/docker-deadbeef.scope\n");
  proc.link(61, "ns/pid", "pid:[3]");
  EXPECT_EQ(inspect(61).owner, Owner::container);
  EXPECT_EQ(inspect(61).owner_detail, "deadbeef");
}

TEST_F(QmpDiscovery, MakesRelativePathsAbsolute) {
  proc.add(70, "qemu-system-x86", kBinary, {kBinary, "-qmp", "unix:x/a.qmp,server=on,wait=off"});
  proc.link(70, "cwd", "/srv/vms");
  EXPECT_EQ(inspect(70).monitors.at(0).address, "/srv/vms/x/a.qmp");
}

TEST_F(QmpDiscovery, DoesNotTakeARelativePathForOneOfItsOwnFolder) {
  proc.add(71, "qemu-system-x86", kBinary,
           {kBinary, "-qmp", "unix:a.qmp,server=on,wait=off", "-qmp", "unix:/run/b.qmp,server=on,wait=off"});
  const QemuProcess process = inspect(71);
  const MonitorSocket& relative = process.monitors.at(0);
  EXPECT_TRUE(relative.folder_unknown);
  EXPECT_EQ(relative.address, "a.qmp");
  EXPECT_EQ(relative.reachable_path, "");
  EXPECT_NE(relative.why_unreachable().find("'a.qmp' is named relative to QEMU's working folder"),
            std::string::npos)
      << relative.why_unreachable();
  EXPECT_FALSE(process.monitors.at(1).folder_unknown);
  EXPECT_EQ(process.monitors.at(1).why_unreachable(), "");
}

TEST_F(QmpDiscovery, SaysWhatIsNoQemuAndWhatIsNotThere) {
  proc.add(80, "bash", "/bin/bash", {"bash"});
  const Failure bash = inspect_qemu(80, options()).error(), nothing = inspect_qemu(81, options()).error();
  EXPECT_EQ(bash.code, Errc::no_socket);
  EXPECT_EQ(bash.context, "process 80 is no QEMU (its executable is \"/bin/bash\")");
  EXPECT_EQ(nothing.code, Errc::no_socket);
  EXPECT_EQ(nothing.context, "process 81 does not exist");
}

TEST_F(QmpDiscovery, NeverShowsSecrets) {
  proc.add(90, "qemu-system-x86", kBinary,
           {kBinary, "-object", "secret,id=s0,data=hunter2", "-spice", "port=5900,password=hunter2", "-drive",
            "file=nbd://user:hunter2@host/export,id=d0", "-drive",
            "file=rbd:pool/img:id=a:key=hunter2:conf=/x,id=d1"});
  const QemuProcess process = inspect(90);
  EXPECT_TRUE(process.has_secrets);
  const std::string json = boost::json::serialize(to_json(process));
  EXPECT_EQ(json.find("hunter2"), std::string::npos) << json;
  EXPECT_EQ(process.disks.at(0).path, "nbd://user:***@host/export");
  EXPECT_EQ(process.disks.at(1).path, "rbd:pool/img:id=a:key=***:conf=/x");
}

TEST_F(QmpDiscovery, WritesEveryFieldUnderItsName) {
  proc.add(91, "qemu-system-x86", kBinary, {kBinary, "-qmp", "tcp:0.0.0.0:4444,server=on"});
  const auto json = to_json(inspect(91));
  for (const char* key :
       {"pid", "start_ns", "uid", "comm", "executable", "name", "uuid", "accelerator", "machine", "owner",
        "owner_detail", "monitors", "threads", "disks", "log_file", "has_secrets", "unreadable"})
    EXPECT_TRUE(json.contains(key)) << key;
  EXPECT_EQ(json.at("monitors").at(0).at("address").as_string(), "tcp:127.0.0.1:4444");
}

TEST(QmpCommandLine, ReadsAcceleratorsInEveryForm) {
  const auto accelerator = [](const Arguments& arguments) {
    return parse_command_line(arguments).accelerator;
  };
  EXPECT_EQ(accelerator({"q", "-enable-kvm"}), "kvm");
  EXPECT_EQ(accelerator({"q", "--accel", "tcg,thread=multi"}), "tcg");
  EXPECT_EQ(accelerator({"q", "-machine", "q35,accel=kvm:tcg"}), "kvm");
  EXPECT_EQ(accelerator({"q", "-M", "q35"}), "");
  EXPECT_EQ(accelerator({"q", "-accel"}), "");
}

TEST(QmpCommandLine, FindsMonitorsInEveryForm) {
  const auto monitors = [](const Arguments& arguments) { return parse_command_line(arguments).monitors; };
  EXPECT_EQ(monitors({"q", "-qmp", "unix:/a,server=on,wait=off"}).at(0).path, "/a");
  EXPECT_EQ(monitors({"q", "-qmp-pretty", "tcp:[::1]:4444,server,nowait"}).at(0).host, "::1");
  EXPECT_TRUE(monitors({"q", "-qmp", "unix:/a"}).empty()) << "a client";
  EXPECT_TRUE(monitors({"q", "-qmp", "stdio", "-monitor", "unix:/hmp,server=on"}).empty());
  EXPECT_EQ(monitors({"q", "-mon", "m0,mode=control", "-chardev", "socket,id=m0,host=h,port=1,server=on"})
                .at(0)
                .port,
            "1");
  EXPECT_TRUE(
      monitors({"q", "-mon", "chardev=m0,mode=readline", "-chardev", "socket,id=m0,path=/a,server=on"})
          .empty());
  EXPECT_EQ(
      monitors({"q", "-chardev", "socket,id=m0,path=vm,abstract=on,server=on", "-mon", "m0,mode=control"})
          .at(0)
          .path,
      "@vm");
  EXPECT_EQ(
      monitors(
          {"q", "-chardev",
           R"({"id":"m0","backend":{"type":"socket","data":{"addr":{"type":"unix","data":{"path":"/j"}},"server":true}}})",
           "-mon", R"({"chardev":"m0","mode":"control"})"})
          .at(0)
          .path,
      "/j");
}

TEST(QmpCommandLine, SurvivesNonsense) {
  for (const Arguments& arguments :
       {Arguments{}, Arguments{"q", ""}, Arguments{"q", "-"}, Arguments{"q", "-qmp", ","},
        Arguments{"q", "-blockdev", "{"},
        Arguments{"q", "-chardev", "socket,fd=99999999999999999999,server=on", "-mon", ",mode=control"},
        Arguments{"q", "-drive", "file=json:{bad", "-name", ",,,,="}, Arguments{"q", "-qmp", "unix:"}})
    parse_command_line(arguments);
}

TEST(QmpCommandLine, FindsDisksInEveryForm) {
  const auto disks =
      parse_command_line(
          {"q", "-hda", "/a.img", "-drive", "file=/b,,c.img,id=d1,if=none", "-drive",
           R"(file=json:{"driver":"qcow2",,"file":{"driver":"file",,"filename":"/d.img"}},id=d2)",
           "-blockdev", "driver=qcow2,node-name=n3,file.driver=file,file.filename=/e.img", "-blockdev",
           "driver=raw,node-name=n4,file=n3"})
          .disks;
  ASSERT_EQ(disks.size(), 5u);
  EXPECT_EQ(disks[0].path, "/a.img");
  EXPECT_EQ(disks[1].path, "/b,c.img");
  EXPECT_EQ(disks[3].node, "n3");
  EXPECT_EQ(disks[4].node, "n4");
  EXPECT_EQ(disks[4].path, "/e.img");
}

}  // namespace
}  // namespace vmwhy::qmp
