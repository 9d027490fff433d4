// SPDX-License-Identifier: BSD-2-Clause
// Storage behind a server that QEMU's own NBD or iSCSI client speaks to: a server that stands still is told
// while it does; an idle connection and a slow server never look like that.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <cstdlib>
#include <optional>
#include <stdexcept>

#include "core/text.hpp"
#include "core/unique_fd.hpp"
#include "host/threads.hpp"
#include "qmp/unix_sockets.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/storage_server.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

namespace json = boost::json;

constexpr const char* kIde = "ide-hd";

bool did_io(const QemuProcess& vm) {
  return wait_until([&] { return vm.serial().find('.') != std::string::npos; });
}

json::object line_of(const std::optional<std::string>& line) {
  if (!line) return {};
  boost::system::error_code error;
  const json::value value = json::parse(*line, error);
  return !error && value.is_object() ? value.get_object() : json::object();
}

std::vector<std::string> iowatch(const QemuProcess& vm, const std::vector<std::string>& more) {
  std::vector<std::string> args{binary("vm-iowatch"), "-s", vm.monitor(), "--json", "-i", "300ms"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

/// The machine's own disks may hang too: only what is said of servers counts here.
bool is_of_server(std::string_view line, std::string_view kind) {
  return line.find("\"kind\":\"" + std::string(kind) + "\"") != line.npos &&
         line.find("\"layer\":\"net\",\"address\"") != line.npos;
}

json::object server_line(ChildProcess& child, std::string_view kind) {
  return line_of(child.wait_line([&](std::string_view line) { return is_of_server(line, kind); }));
}

void end_well(ChildProcess& child) {
  child.signal(SIGINT);
  const auto status = child.wait();
  EXPECT_TRUE(status && status->code == 0) << child.err();
}

/// The server is stopped under a writing guest; it is named while that lasts, and judged from the trace.
void stopped_server_is_told(const TempDir& dir, StorageServer& server, QemuProcess& vm) {
  vm.cont();
  ASSERT_TRUE(did_io(vm));
  const std::string trace = dir / "io.vmt";
  ChildProcess child(iowatch(vm, {"--hang", "1500ms", "--slow", "400ms", "-o", trace}));
  ASSERT_TRUE(child.wait_error_line("watching")) << child.err();
  // The connection is known, and QEMU has told once what it counts.
  ASSERT_TRUE(child.wait_line("\"guest_quiet_ns\"")) << child.err();
  server.process().signal(SIGSTOP);
  for (int i = 0; i < 2; ++i) {
    const json::object hang = server_line(child, "hang");
    ASSERT_FALSE(hang.empty()) << child.out() << child.err();
    EXPECT_EQ(hang.at("layer"), "net");
    EXPECT_EQ(hang.at("node"), "file0");
    EXPECT_EQ(text_of(hang, "address"), server.address());
    EXPECT_GE(hang.at("latency_ns").to_number<std::uint64_t>(), 1'500'000'000u);
    const json::object& net = hang.at("chain").as_array().at(1).as_object();
    EXPECT_EQ(net.at("server_pid").to_number<int>(), server.process().pid());
    EXPECT_EQ(net.at("server_state"), "T");
  }
  server.process().signal(SIGCONT);
  const json::object end = server_line(child, "slow");
  ASSERT_FALSE(end.empty()) << child.out() << child.err();
  EXPECT_EQ(end.at("layer"), "net");
  end_well(child);
  const auto incidents = vm_why({trace});
  ASSERT_EQ(incidents.size(), 1u) << vm_why_text(trace);
  EXPECT_TRUE(is_verdict(incidents.front(), "storage-hang", "proven"));
  EXPECT_EQ(detail_of(incidents.front(), "server_state"), "T");
  EXPECT_TRUE(has_remedy(incidents.front(), "kill -CONT"));
}

/// Each of its threads has stopped.
bool is_stopped(pid_t pid) {
  const auto threads = host::sample_threads(static_cast<std::uint32_t>(pid));
  return !threads.empty() &&
         std::all_of(threads.begin(), threads.end(), [](const auto& thread) { return thread.state == 'T'; });
}

/// Stops it with a request that it has not read: of one that it has read, a Unix socket tells nothing.
bool stopped_before_it_reads(NbdServer& server) {
  return wait_until([&] {
    server.process().signal(SIGSTOP);
    // Until then it may still read what it has just got.
    wait_until([&] { return is_stopped(server.process().pid()); });
    const bool unread = wait_until(deadline_in(2s), [&] {
      for (const qmp::UnixSocket& socket : qmp::dump_unix_sockets())
        if (socket.path == server.socket() && socket.connected && socket.unread_bytes != 0) return true;
      return false;
    });
    if (!unread) server.process().signal(SIGCONT);
    return unread;
  });
}

TEST(StorageServer, StoppedOneOfAUnixSocketIsTold) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(nbdkit);
  VMWHY_NEEDS(sock_diag);
  const TempDir dir;
  NbdServer server(dir);
  QemuProcess vm(dir, {.boot = "writer.bin", .args = nbd_disk(server.socket())});
  stopped_server_is_told(dir, server, vm);
}

TEST(StorageServer, StoppedOneOverTcpIsTold) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(nbdkit);
  VMWHY_NEEDS(sock_diag);
  const TempDir dir;
  NbdServer server;
  QemuProcess vm(dir, {.boot = "writer.bin", .args = nbd_disk(server.socket())});
  stopped_server_is_told(dir, server, vm);
}

TEST(StorageServer, SlowOneAndAnIdleConnectionAreNoHang) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(nbdkit);
  VMWHY_NEEDS(sock_diag);
  const TempDir dir;
  NbdServer slow({"delay"}, {"wdelay=300ms"});
  NbdServer idle(dir);
  auto args = nbd_disk(slow.socket());
  args.insert(args.end(),
              {"-blockdev", "driver=nbd,node-name=idle0,server.type=unix,server.path=" + idle.socket(),
               "-device", "virtio-blk-pci,drive=idle0,id=vd1"});
  QemuProcess vm(dir, {.boot = "writer.bin", .args = args});
  vm.cont();
  ASSERT_TRUE(did_io(vm));
  // Above what one request takes, below what the run lasts: ten of them.
  ChildProcess child(iowatch(vm, {"--hang", "5s"}));
  ASSERT_TRUE(child.wait_error_line("watching")) << child.err();
  const std::size_t before = vm.serial().size();
  ASSERT_TRUE(wait_until([&] { return vm.serial().size() >= before + 10; }));
  // Nobody uses it, and nobody misses it.
  idle.process().signal(SIGSTOP);
  ASSERT_TRUE(wait_until([&] { return vm.serial().size() >= before + 16; }));
  end_well(child);
  EXPECT_NE(child.out().find("\"address\":\"" + idle.address()), std::string::npos) << child.out();
  for (const std::string_view line : split(child.out(), '\n'))
    EXPECT_FALSE(is_of_server(line, "hang")) << line;
}

TEST(StorageServer, StoppedOneIsAStallOfTheVmUntilItGoesOn) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(nbdkit);
  VMWHY_NEEDS(sock_diag);
  const TempDir dir;
  NbdServer server(dir);
  // No virtio device: its queues cannot be asked about.
  QemuProcess vm(dir, {.boot = "writer.bin", .args = nbd_disk(server.socket(), "", kIde)});
  Watcher watch(dir, {&vm});
  vm.cont();
  ASSERT_TRUE(did_io(vm));
  ASSERT_TRUE(stopped_before_it_reads(server));
  const auto stall = watch.incident("stall");
  EXPECT_TRUE(is_verdict(stall, "storage-hang", "proven"));
  EXPECT_TRUE(has_evidence(stall, "net", "unread by it"));
  EXPECT_EQ(detail_of(stall, "address"), json::value(server.address()));
  EXPECT_EQ(detail_of(stall, "server_pid"), json::value(server.process().pid()));
  server.process().signal(SIGCONT);
  EXPECT_TRUE(is_verdict(watch.ended("stall"), "storage-hang", "proven"));
  watch.finish();
}

TEST(StorageServer, LostConnectionAndAnErrorOfTheServerAreToldApart) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(nbdkit);
  VMWHY_NEEDS(sock_diag);
  for (const bool killed : {true, false}) {
    const TempDir dir;
    const std::string trigger = dir / "trigger";
    NbdServer server({"error"}, {"error-pwrite=EIO", "error-rate=100%", "error-file=" + trigger});
    QemuProcess vm(dir, {.boot = "writer.bin", .args = nbd_disk(server.socket())});
    Watcher watch(dir, {&vm});
    vm.cont();
    ASSERT_TRUE(did_io(vm));
    if (killed)
      server.process().signal(SIGKILL);
    else
      dir.write("trigger", "");
    const auto pause = watch.incident("pause");
    EXPECT_TRUE(is_verdict(pause, "storage-network", killed ? "proven" : "likely"));
    EXPECT_TRUE(has_evidence(pause, "net", killed ? "not connected any more" : "is connected"));
    watch.finish();
  }
}

/// The server is killed under a writing guest, and QEMU's client tries to connect again for ever.
void server_that_does_not_come_back_is_told(const TempDir& dir, StorageServer& server, QemuProcess& vm) {
  vm.cont();
  ASSERT_TRUE(did_io(vm));
  const std::string trace = dir / "io.vmt";
  ChildProcess child(iowatch(vm, {"--hang", "1500ms", "-o", trace}));
  ASSERT_TRUE(child.wait_error_line("watching")) << child.err();
  ASSERT_TRUE(child.wait_line("\"guest_quiet_ns\"")) << child.err();
  server.process().signal(SIGKILL);
  const json::object hang = server_line(child, "hang");
  ASSERT_FALSE(hang.empty()) << child.out() << child.err();
  end_well(child);
  const auto incidents = vm_why({trace});
  ASSERT_EQ(incidents.size(), 1u) << vm_why_text(trace);
  EXPECT_TRUE(is_verdict(incidents.front(), "storage-network", "proven"));
  EXPECT_EQ(detail_of(incidents.front(), "address"), json::value(server.address()));
}

TEST(StorageServer, OneThatDoesNotComeBackIsTheNetworks) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(nbdkit);
  VMWHY_NEEDS(sock_diag);
  const TempDir dir;
  NbdServer server;
  QemuProcess vm(dir, {.boot = "writer.bin", .args = nbd_disk(server.socket(), "reconnect-delay=600")});
  server_that_does_not_come_back_is_told(dir, server, vm);
}

/// The calling thread is in a network of its own, where only "lo" is, as long as this lives: so is what it
/// starts.
class OwnNetwork {
 public:
  OwnNetwork() : before_(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)) {
    if (!before_ || ::unshare(CLONE_NEWNET) != 0) throw std::runtime_error("no network namespace");
    if (run_program({"ip", "link", "set", "lo", "up"}).status.code != 0) throw std::runtime_error("ip link");
  }
  ~OwnNetwork() {
    if (::setns(before_.get(), CLONE_NEWNET) != 0) std::abort();
  }

 private:
  UniqueFd before_;
};

/// A server over TCP and its VM, in a network of their own.
struct Elsewhere {
  Elsewhere() {
    const OwnNetwork network;
    server.emplace();
    vm.emplace(dir, QemuOptions{.boot = "writer.bin", .args = nbd_disk(server->socket())});
  }
  TempDir dir;
  std::optional<NbdServer> server;
  std::optional<QemuProcess> vm;
};

TEST(StorageServer, OneInAnotherNetworkNamespaceIsSeenToo) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(nbdkit);
  VMWHY_NEEDS(sock_diag);
  VMWHY_NEEDS(net_namespace);
  Elsewhere there;
  stopped_server_is_told(there.dir, *there.server, *there.vm);
}

TEST(StorageServer, OneThatDiesInAnotherNetworkNamespaceIsTheNetworks) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(nbdkit);
  VMWHY_NEEDS(sock_diag);
  VMWHY_NEEDS(net_namespace);
  Elsewhere there;
  Watcher watch(there.dir, {&*there.vm});
  there.vm->cont();
  ASSERT_TRUE(did_io(*there.vm));
  there.server->process().signal(SIGKILL);
  EXPECT_TRUE(is_verdict(watch.incident("pause"), "storage-network", "proven"));
  watch.finish();
}

TEST(StorageServer, StoppedIscsiTargetIsTold) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(iscsi);
  VMWHY_NEEDS(sock_diag);
  const TempDir dir;
  IscsiTarget target(dir, dir.sparse("disk.raw", 64 << 20));
  QemuProcess vm(dir, {.boot = "writer.bin", .args = iscsi_disk(target)});
  stopped_server_is_told(dir, target, vm);
}

/// libiscsi connects again by itself, and holds the requests meanwhile: no error comes.
TEST(StorageServer, IscsiTargetThatDoesNotComeBackIsTheNetworks) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(iscsi);
  VMWHY_NEEDS(sock_diag);
  const TempDir dir;
  IscsiTarget target(dir, dir.sparse("disk.raw", 64 << 20));
  QemuProcess vm(dir, {.boot = "writer.bin", .args = iscsi_disk(target)});
  server_that_does_not_come_back_is_told(dir, target, vm);
}

}  // namespace
}  // namespace vmwhy::test
