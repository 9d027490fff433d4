// SPDX-License-Identifier: BSD-2-Clause
// The probe family qmp_tap on real sockets of this process.

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "bpf/load/qmp_tap.hpp"
#include "bpf/load/ring.hpp"
#include "core/unique_fd.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/temp_dir.hpp"

namespace vmwhy::test {
namespace {

using bpf::QmpTap;
using bpf::QmpTapOptions;
using Form = QmpTapOptions::Form;

/// Why this kernel, or what guards it, does not take that form; empty: it does.
std::string form_error(Form form) {
  QmpTapOptions options;
  options.form = form;
  const auto opened = QmpTap::open(bpf::look_around(), options);
  return opened ? std::string() : to_string(opened.error());
}

std::uint64_t inode_of(int fd) {
  struct stat status {};
  ::fstat(fd, &status);
  return status.st_ino;
}

struct Heard {
  qmp_tap_event event;
  std::string bytes;
};

class QmpTapProbe : public ::testing::TestWithParam<Form> {
 protected:
  void SetUp() override {
    VMWHY_NEEDS(bpf);
    if (const std::string error = form_error(GetParam()); !error.empty())
      GTEST_SKIP() << (GetParam() == Form::function ? "needs fentry: " : "needs sock_send_length: ") << error;
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    mine_.reset(pair[0]);
    other_.reset(pair[1]);
  }

  void open(QmpTapOptions options = {}) {
    options.form = GetParam();
    auto opened = QmpTap::open(bpf::look_around(), options);
    ASSERT_TRUE(opened) << to_string(opened.error());
    tap_ = std::move(*opened);
    ASSERT_TRUE(tap_->set_socket(inode_of(other_.get()), QMP_TAP_IGNORE));
    ASSERT_TRUE(tap_->watch(static_cast<std::uint32_t>(::getpid())));
    auto reader = bpf::RingReader::create(tap_->ring_fd(), [this](const void* data, std::size_t bytes) {
      Heard heard;
      ASSERT_GE(bytes, sizeof heard.event);
      std::memcpy(&heard.event, data, sizeof heard.event);
      if (heard.event.what == QMP_TAP_DATA)
        heard.bytes.assign(static_cast<const char*>(data) + sizeof heard.event, heard.event.bytes);
      if (heard.event.what == QMP_TAP_EXEC || heard.event.ino == inode_of(mine_.get()))
        heard_.push_back(heard);
    });
    ASSERT_TRUE(reader) << to_string(reader.error());
    reader_ = std::move(*reader);
  }
  void watch_mine() { ASSERT_TRUE(tap_->set_socket(inode_of(mine_.get()), QMP_TAP_MONITOR)); }
  const std::vector<Heard>& heard() {
    reader_->drain();
    return heard_;
  }
  std::string text(qmp_tap_direction direction) {
    std::string out;
    for (const Heard& piece : heard())
      if (piece.event.direction == direction) out += piece.bytes;
    return out;
  }
  std::uint64_t counter(qmp_tap_stat stat) const { return tap_->losses().counters[stat]; }

  UniqueFd mine_, other_;
  std::unique_ptr<QmpTap> tap_;
  std::unique_ptr<bpf::RingReader> reader_;
  std::vector<Heard> heard_;
};

TEST_P(QmpTapProbe, CopiesWhatEverySortOfCallMoves) {
  open();
  watch_mine();
  char bytes[64];
  iovec vectors[] = {{const_cast<char*>("ab"), 2}, {nullptr, 0}, {const_cast<char*>("cde"), 3}};
  msghdr message{};
  message.msg_iov = vectors;
  message.msg_iovlen = 3;
  ASSERT_EQ(::write(mine_.get(), "1", 1), 1);
  ASSERT_EQ(::send(mine_.get(), "2", 1, 0), 1);
  ASSERT_EQ(::writev(mine_.get(), vectors, 3), 5);
  ASSERT_EQ(::sendmsg(mine_.get(), &message, 0), 5);
  EXPECT_EQ(text(QMP_TAP_OUT), "12abcdeabcde");
  for (const char* word : {"read", "recv", "readv", "recvmsg"}) {
    ASSERT_GT(::write(other_.get(), word, std::strlen(word)), 0);
    iovec into[] = {{bytes, 2}, {bytes + 2, sizeof bytes - 2}};
    msghdr in{};
    in.msg_iov = into;
    in.msg_iovlen = 2;
    const std::string_view call = word;
    const ssize_t got = call == "read"    ? ::read(mine_.get(), bytes, sizeof bytes)
                        : call == "recv"  ? ::recv(mine_.get(), bytes, sizeof bytes, 0)
                        : call == "readv" ? ::readv(mine_.get(), into, 2)
                                          : ::recvmsg(mine_.get(), &in, 0);
    ASSERT_EQ(static_cast<std::size_t>(got), call.size());
  }
  EXPECT_EQ(text(QMP_TAP_IN), "readrecvreadvrecvmsg");
  std::uint64_t next[2] = {0, 0};
  for (const Heard& piece : heard()) {
    EXPECT_EQ(piece.event.offset, next[piece.event.direction]);
    next[piece.event.direction] += piece.event.bytes;
    EXPECT_EQ(piece.event.tgid, static_cast<std::uint32_t>(::getpid()));
    EXPECT_EQ(piece.event.peer_pid, static_cast<std::uint32_t>(::getpid()));
    EXPECT_EQ(piece.event.peer_uid, ::getuid());
    EXPECT_EQ(piece.event.family, AF_UNIX);
  }
  EXPECT_EQ(tap_->losses().lost(), 0u);
  EXPECT_EQ(counter(QMP_TAP_STAT_CALLS), 8u);
}

TEST_P(QmpTapProbe, CopiesALargeMessageWhole) {
  open();
  watch_mine();
  std::string big(120'000, 'x');
  for (std::size_t i = 0; i < big.size(); ++i) big[i] = static_cast<char>('a' + i % 23);
  ASSERT_EQ(::send(mine_.get(), big.data(), big.size(), 0), static_cast<ssize_t>(big.size()));
  EXPECT_TRUE(text(QMP_TAP_OUT) == big);
}

TEST_P(QmpTapProbe, TellsOfACommandThatIsReadByteByByteAtOnce) {
  open();
  watch_mine();
  const auto read_singly = [&](std::string_view text) {
    ASSERT_EQ(::send(other_.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    char byte = 0;
    for (std::size_t i = 0; i < text.size(); ++i) ASSERT_EQ(::recv(mine_.get(), &byte, 1, 0), 1);
  };
  const auto pieces = [&] {
    std::vector<std::string> out;
    std::uint64_t next = 0;
    for (const Heard& piece : heard()) {
      EXPECT_EQ(piece.event.offset, next);
      next += piece.event.bytes;
      EXPECT_EQ(piece.bytes.size(), piece.event.bytes);
      out.push_back(piece.bytes);
    }
    return out;
  };
  using Pieces = std::vector<std::string>;
  read_singly(R"({"execute":"cont"}{"exec)");
  EXPECT_EQ(pieces(), (Pieces{R"({"execute":"cont"})"}));
  read_singly("ute\n");
  const std::string_view longer = "ute:0123456789012345678901234567890123456789";
  read_singly(longer);
  EXPECT_EQ(pieces(), (Pieces{R"({"execute":"cont"})", "{\"execute\n", std::string(longer.substr(0, 40))}));
  // What comes in another way comes behind what is held.
  char bytes[8] = {};
  ASSERT_EQ(::send(other_.get(), "xyz", 3, 0), 3);
  ASSERT_EQ(::recv(mine_.get(), bytes, sizeof bytes, 0), 3);
  EXPECT_EQ(text(QMP_TAP_IN),
            R"({"execute":"cont"}{"execute)" + std::string("\n") + std::string(longer) + "xyz");
  read_singly("{");
  other_.reset();
  EXPECT_EQ(::recv(mine_.get(), bytes, 1, 0), 0);
  const auto& all = heard();
  ASSERT_GE(all.size(), 2u);
  EXPECT_EQ(all[all.size() - 2].bytes, "{");
  EXPECT_EQ(all.back().event.what, QMP_TAP_CLOSED);
  EXPECT_EQ(all.back().event.offset, all[all.size() - 2].event.offset + 1);
  EXPECT_EQ(tap_->losses().lost(), 0u);
}

TEST_P(QmpTapProbe, SeesOnlyWatchedProcessesAndSockets) {
  open();
  watch_mine();
  ASSERT_TRUE(tap_->set_socket(inode_of(mine_.get()), QMP_TAP_IGNORE));
  ASSERT_EQ(::send(mine_.get(), "x", 1, 0), 1);
  EXPECT_TRUE(heard().empty());
  watch_mine();
  tap_->unwatch(static_cast<std::uint32_t>(::getpid()));
  ASSERT_EQ(::send(mine_.get(), "x", 1, 0), 1);
  EXPECT_TRUE(heard().empty());
}

TEST_P(QmpTapProbe, TakesOnlyAGlanceAtAnUnknownSocketUnlessItSpeaksJson) {
  open();
  const std::string noise(2000, 'n'), json = "{" + std::string(2000, 'j');
  ASSERT_GT(::send(mine_.get(), noise.data(), noise.size(), 0), 0);
  ASSERT_GT(::send(mine_.get(), json.data(), json.size(), 0), 0);
  ASSERT_EQ(heard().size(), 2u);
  EXPECT_EQ(heard()[0].bytes.size(), static_cast<std::size_t>(QMP_TAP_GLANCE));
  EXPECT_EQ(heard()[1].bytes, json);
  EXPECT_EQ(heard()[0].event.flags & QMP_TAP_KNOWN, 0u);
}

TEST_P(QmpTapProbe, TellsOfAFullSocketAndOfItsEnd) {
  open();
  watch_mine();
  const std::string much(1 << 20, 'x');
  while (::send(mine_.get(), much.data(), much.size(), MSG_DONTWAIT) > 0) {
  }
  other_.reset();
  char byte = 0;
  EXPECT_LE(::recv(mine_.get(), &byte, 1, 0), 0);
  std::vector<unsigned> what;
  for (const Heard& piece : heard())
    if (piece.event.what != QMP_TAP_DATA) what.push_back(piece.event.what);
  EXPECT_EQ(what, (std::vector<unsigned>{QMP_TAP_BLOCKED, QMP_TAP_CLOSED}));
}

TEST_P(QmpTapProbe, CountsWhatAFullRingCouldNotTakeAndTheOffsetShowsTheHole) {
  QmpTapOptions options;
  options.ring_bytes = 4096;
  open(options);
  watch_mine();
  char bytes[256] = {};
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(::send(mine_.get(), bytes, sizeof bytes, 0), 256);
    ASSERT_EQ(::recv(other_.get(), bytes, sizeof bytes, 0), 256);
  }
  const std::size_t before = heard().size();
  EXPECT_LT(before, 100u);
  EXPECT_EQ(before + counter(QMP_TAP_STAT_RING_FULL), 100u);
  ASSERT_EQ(::send(mine_.get(), bytes, 10, 0), 10);
  EXPECT_EQ(heard().back().event.offset, 25'600u);
}

TEST_P(QmpTapProbe, TellsOfAProgramNamedLikeAQemu) {
  QmpTapOptions options;
  options.follow = true;
  open(options);
  ASSERT_TRUE(tap_->follows());
  const TempDir dir;
  ASSERT_EQ(::symlink("/bin/true", (dir / "qemu-system-x86_64").c_str()), 0);
  ChildProcess child({dir / "qemu-system-x86_64"});
  const pid_t pid = child.pid();
  ASSERT_TRUE(child.wait());
  bool told = false;
  for (const Heard& piece : heard())
    told = told || (piece.event.what == QMP_TAP_EXEC && piece.event.tgid == static_cast<std::uint32_t>(pid));
  EXPECT_TRUE(told);
}

INSTANTIATE_TEST_SUITE_P(Forms, QmpTapProbe, ::testing::Values(Form::tracepoint, Form::function),
                         [](const auto& info) {
                           return info.param == Form::function ? "Function" : "Tracepoint";
                         });

}  // namespace
}  // namespace vmwhy::test
