// SPDX-License-Identifier: BSD-2-Clause
// Which server stands under a node, and how the connection to it is seen from outside: on real sockets of
// this process, whose two ends are its own.

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <boost/json/parse.hpp>

#include "clock/clock.hpp"
#include "core/unique_fd.hpp"
#include "storage/guest_progress.hpp"
#include "storage/server_links.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"
#include "timeline/storage_link.hpp"

namespace vmwhy::test {
namespace {

using storage::server_of;

constexpr std::uint64_t kSecond = 1'000'000'000;

std::string address_of(const std::string& name) {
  const auto address = server_of(name);
  return address ? address->driver + " " + address->to_string() : "none";
}

TEST(ServerAddress, IsReadFromTheNamesThatQemuGives) {
  EXPECT_EQ(address_of("nbd+unix:///export?socket=/run/n.sock"), "nbd /run/n.sock");
  EXPECT_EQ(address_of("nbd+unix://?socket=/run/a%20b.sock"), "nbd /run/a b.sock");
  EXPECT_EQ(address_of("nbd:unix:/run/n.sock:exportname=x"), "nbd /run/n.sock");
  EXPECT_EQ(address_of("nbd://192.0.2.1"), "nbd 192.0.2.1:10809");
  EXPECT_EQ(address_of("nbds://host.example:77/export"), "nbd host.example:77");
  EXPECT_EQ(address_of("nbd:host:1234:exportname=x"), "nbd host:1234");
  EXPECT_EQ(address_of("nbd://[2001:db8::1]:1234/x"), "nbd [2001:db8::1]:1234");
  EXPECT_EQ(address_of("iscsi://user%secret@192.0.2.9/iqn.2001:x/0"), "iscsi 192.0.2.9:3260");
  EXPECT_EQ(address_of("https://host/disk.iso"), "https host:443");
  EXPECT_EQ(address_of(R"(json:{"driver":"nbd","server.path":"/run/n.sock","server.type":"unix"})"),
            "nbd /run/n.sock");
  EXPECT_EQ(address_of(R"(json:{"driver":"qcow2","file":{"driver":"throttle","throttle-group":"t",)"
                       R"("file":{"driver":"nbd","server":{"type":"inet","host":"::1","port":"7"}}}})"),
            "nbd [::1]:7");
  EXPECT_EQ(address_of(R"(json:{"driver":"iscsi","portal":"192.0.2.9:3261","target":"t"})"),
            "iscsi 192.0.2.9:3261");
}

TEST(ServerAddress, IsNothingWhereNoSocketIsKnown) {
  for (const char* name : {"", "/srv/d.raw", "rbd:pool/image", "gluster://host/volume/image", "nbd+unix:///x",
                           "nbd://", "nbd://host:port", "nbd://host:0", "nbd:", "json:{", "json:[]",
                           "json:{\"driver\":\"nbd\"}", "nbd://[::1", "fd:5"})
    EXPECT_EQ(address_of(name), "none") << name;
}

/// A connection of this process to itself, and what the links make of it.
struct Pair {
  UniqueFd listener, client, server;
  std::string name;  ///< As QEMU would call the node's file.
};

Pair connected_pair(int family, const sockaddr* address, socklen_t length) {
  Pair out;
  out.listener = UniqueFd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  out.client = UniqueFd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::bind(out.listener.get(), address, length) != 0 || ::listen(out.listener.get(), 1) != 0) return out;
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  ::getsockname(out.listener.get(), reinterpret_cast<sockaddr*>(&bound), &size);
  if (::connect(out.client.get(), reinterpret_cast<sockaddr*>(&bound), size) != 0) return out;
  out.server = UniqueFd(::accept(out.listener.get(), nullptr, nullptr));
  if (family == AF_INET)
    out.name = "nbd://127.0.0.1:" + std::to_string(ntohs(reinterpret_cast<sockaddr_in*>(&bound)->sin_port));
  return out;
}

Pair unix_pair(const TempDir& dir) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = dir / "n.sock";
  std::copy_n(path.c_str(), path.size() + 1, address.sun_path);
  Pair out = connected_pair(AF_UNIX, reinterpret_cast<sockaddr*>(&address), sizeof address);
  out.name = "nbd+unix://?socket=" + path;
  return out;
}

Pair tcp_pair() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return connected_pair(AF_INET, reinterpret_cast<sockaddr*>(&address), sizeof address);
}

class ServerLinks : public ::testing::Test {
 protected:
  void watch(const Pair& pair) {
    links_.learn(1, static_cast<std::uint32_t>(::getpid()), {{"file0", *server_of(pair.name), true}});
  }
  /// The last record after a look so long from now.
  timeline::StorageLink look(double seconds) {
    links_.look(begin_ + static_cast<std::uint64_t>(seconds * 1e9));
    return last_;
  }
  void send(const UniqueFd& fd, std::size_t bytes) {
    const std::string data(bytes, 'x');
    ASSERT_EQ(::send(fd.get(), data.data(), bytes, MSG_NOSIGNAL), static_cast<ssize_t>(bytes));
  }
  void receive(const UniqueFd& fd, std::size_t bytes) {
    std::string data(bytes, ' ');
    ASSERT_EQ(::recv(fd.get(), data.data(), bytes, MSG_WAITALL), static_cast<ssize_t>(bytes));
  }

  storage::GuestWaits guest_;
  timeline::StorageLink last_;
  std::size_t records_ = 0;
  std::uint64_t begin_ = clock::now_ns();
  record::Recorder recorder_{nullptr, [this](const trace::RecordView& record) {
                               last_ = timeline::decode_storage_link(record);
                               ++records_;
                             }};
  storage::ServerLinks links_{recorder_, 5 * kSecond,
                              [this](std::uint32_t, const std::vector<std::string>&) { return guest_; }};
};

TEST_F(ServerLinks, ConnectionThatHasNotComeAboutIsNone) {
  VMWHY_NEEDS(sock_diag);
  const Pair pair = tcp_pair();
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  ::getsockname(pair.listener.get(), reinterpret_cast<sockaddr*>(&address), &size);
  // Until the listener's queue is full.
  std::vector<UniqueFd> fds;
  pollfd last{};
  do {
    fds.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    ::connect(fds.back().get(), reinterpret_cast<sockaddr*>(&address), size);
    last = {fds.back().get(), POLLOUT, 0};
  } while (fds.size() < 64 && ::poll(&last, 1, 100) != 0);
  ASSERT_LT(fds.size(), 64u);
  watch(pair);
  look(60);
  struct stat file {};
  ASSERT_EQ(::fstat(last.fd, &file), 0);
  EXPECT_EQ(links_.links().size(), fds.size());
  for (const auto& link : links_.links()) EXPECT_NE(link.now.socket, file.st_ino);
}

TEST_F(ServerLinks, ServerThatDoesNotReadAUnixSocketHangs) {
  VMWHY_NEEDS(sock_diag);
  const TempDir dir;
  const Pair pair = unix_pair(dir);
  watch(pair);
  EXPECT_TRUE(look(0).connected());
  EXPECT_EQ(last_.nodes, "file0");
  send(pair.client, 100);
  guest_.quiet_ns = 60 * kSecond;
  look(1);
  EXPECT_FALSE(look(5).hangs());
  EXPECT_EQ(last_.link.unread_bytes, 100u);
  EXPECT_TRUE(look(6.1).hangs());
  // On a machine that is busy the search may end too soon.
  if (last_.link.server_pid != 0) {
    EXPECT_EQ(last_.link.server_pid, static_cast<std::uint32_t>(::getpid()));
  }
  EXPECT_NE(links_.silent(1), "");
  receive(pair.server, 100);
  EXPECT_FALSE(look(7).hangs());
  EXPECT_EQ(last_.link.silent_ns, 0u);
  EXPECT_EQ(links_.silent(1), "");
}

TEST_F(ServerLinks, SlowServerOfAUnixSocketDoesNotHang) {
  VMWHY_NEEDS(sock_diag);
  const TempDir dir;
  const Pair pair = unix_pair(dir);
  watch(pair);
  look(0);
  // As many bytes lie unread at each look, and requests of the guest end in between.
  for (double at = 1; at < 20; at += 1) {
    send(pair.client, 100);
    if (at > 1) receive(pair.server, 100);
    guest_.quiet_ns = kSecond;
    EXPECT_FALSE(look(at).hangs()) << at;
    EXPECT_LE(last_.link.silent_ns, kSecond);
  }
  // Without QEMU's counts: the server's threads run.
  guest_.quiet_ns.reset();
  for (double at = 20; at < 40; at += 1) {
    wait_until(deadline_in(2ms), [] { return false; });
    EXPECT_FALSE(look(at).hangs()) << at;
  }
}

TEST_F(ServerLinks, IdleConnectionNeverHangs) {
  VMWHY_NEEDS(sock_diag);
  const TempDir dir;
  for (const Pair& pair : {unix_pair(dir), tcp_pair()}) {
    watch(pair);
    send(pair.client, 28);
    receive(pair.server, 28);
    send(pair.server, 16);
    receive(pair.client, 16);
    guest_ = {3600 * kSecond, 0};
    records_ = 0;
    for (double at = 0; at < 3600; at += 60) EXPECT_FALSE(look(at).hangs()) << at;
    EXPECT_EQ(records_, 1u);  // That it is there.
  }
}

TEST_F(ServerLinks, ServerThatReadsAndDoesNotAnswerHangsWhileTheGuestWaits) {
  VMWHY_NEEDS(sock_diag);
  const TempDir dir;
  const Pair pair = unix_pair(dir);
  watch(pair);
  look(0);
  send(pair.client, 28);
  receive(pair.server, 28);
  guest_ = {60 * kSecond, 1};
  look(1);
  EXPECT_TRUE(look(7).hangs());
  EXPECT_NE(last_.facts().find("1 request of the guest under way"), std::string::npos) << last_.facts();
  // QEMU has the answer, and does not take it: that is not the server's silence.
  send(pair.server, 16);
  EXPECT_FALSE(look(8).hangs());
}

TEST_F(ServerLinks, TcpTellsOfDataThatWentAfterTheLastThatCame) {
  VMWHY_NEEDS(sock_diag);
  const Pair pair = tcp_pair();
  watch(pair);
  send(pair.server, 16);
  receive(pair.client, 16);
  // The kernel's clock of sockets ticks every 1 to 10 ms.
  wait_until(deadline_in(50ms), [] { return false; });
  send(pair.client, 28);
  receive(pair.server, 28);
  EXPECT_TRUE(last_.link.silent_ns == 0);
  look(0.1);
  EXPECT_TRUE(look(6).hangs());
  EXPECT_TRUE(last_.has(trace::kLinkTcp));
  EXPECT_EQ(last_.link.unread_bytes, 0u);
  EXPECT_FALSE(last_.broken());
  send(pair.server, 16);
  receive(pair.client, 16);
  EXPECT_FALSE(look(6.5).hangs());
}

TEST_F(ServerLinks, TcpWindowThatIsFullIsSeen) {
  VMWHY_NEEDS(sock_diag);
  const Pair pair = tcp_pair();
  watch(pair);
  look(0);
  const std::string data(65536, 'x');
  while (::send(pair.client.get(), data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
  }
  ASSERT_TRUE(wait_until([&] {
    links_.look(clock::now_ns(), 1);
    return last_.has(trace::kLinkWindowClosed);
  }));
  EXPECT_GT(last_.link.unacked_bytes, 0u);
  EXPECT_GT(last_.link.unread_bytes, 0u);
  EXPECT_TRUE(look(60).hangs());
  EXPECT_FALSE(last_.broken());  // Its machine answers the probes.
}

TEST_F(ServerLinks, ConnectionThatIsGoneIsToldAndWaitedForWhileTheGuestDoes) {
  VMWHY_NEEDS(sock_diag);
  const TempDir dir;
  Pair pair = unix_pair(dir);
  watch(pair);
  look(0);
  pair.client = UniqueFd();
  pair.server = UniqueFd();
  look(1);
  EXPECT_TRUE(last_.is(trace::StorageLinkState::absent));
  EXPECT_FALSE(last_.hangs());
  records_ = 0;
  look(30);
  EXPECT_EQ(records_, 0u);  // Nobody waits for it.
  guest_ = {20 * kSecond, 2};
  EXPECT_TRUE(look(31).hangs());
  EXPECT_TRUE(last_.broken());
  links_.forget(1);
  records_ = 0;
  look(40);
  EXPECT_EQ(records_, 0u);
}

TEST(GuestProgress, TellsWhenARequestEndedAndHowManyHaveNot) {
  storage::GuestProgress progress;
  const auto stats = [](int operations, const char* more) {
    return boost::json::parse(
        R"([{"node-name":"disk0","qdev":"/machine/peripheral/vd0/virtio-backend","stats":)"
        R"({"rd_operations":1,"wr_operations":)" +
        std::to_string(operations) + more + "}}]");
  };
  const std::vector<std::string> nodes{"disk0", "file0"};
  progress.take(1, stats(5, ""), 10 * kSecond);
  EXPECT_EQ(progress.waits(1, nodes, 11 * kSecond).quiet_ns, kSecond);
  EXPECT_FALSE(progress.waits(1, nodes, 11 * kSecond).in_flight);
  EXPECT_FALSE(progress.waits(2, nodes, 11 * kSecond).quiet_ns);
  EXPECT_FALSE(progress.waits(1, {"other"}, 11 * kSecond).quiet_ns);
  EXPECT_TRUE(progress.questions(1, nodes).empty());  // It was busy just now.
  progress.take(1, stats(5, R"(,"idle_time_ns":1500000000)"), 12 * kSecond);
  EXPECT_EQ(progress.waits(1, nodes, 12 * kSecond).quiet_ns, 1'500'000'000u);
  const auto questions = progress.questions(1, nodes);
  ASSERT_FALSE(questions.empty());
  EXPECT_EQ(questions[0].path, "/machine/peripheral/vd0/virtio-backend");
  const auto in_use = boost::json::parse(R"({"inuse":3})");
  progress.take(1, questions[0], &in_use, 12 * kSecond);
  progress.take(1, questions[1], nullptr, 12 * kSecond);
  EXPECT_EQ(progress.waits(1, nodes, 12 * kSecond).in_flight, 3u);
  EXPECT_EQ(progress.questions(1, nodes).size(), 1u);  // It has no second queue.
  progress.set_running(1, false);
  EXPECT_FALSE(progress.waits(1, nodes, 12 * kSecond).in_flight);
  progress.set_running(1, true);
  // A request has ended: what was in flight then says nothing of now; and an old answer says nothing at all.
  progress.take(1, stats(6, ""), 13 * kSecond);
  EXPECT_FALSE(progress.waits(1, nodes, 13 * kSecond).in_flight);
  EXPECT_FALSE(progress.waits(1, nodes, 30 * kSecond).quiet_ns);
}

}  // namespace
}  // namespace vmwhy::test
