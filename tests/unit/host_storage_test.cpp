// SPDX-License-Identifier: BSD-2-Clause
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <filesystem>
#include <optional>

#include "core/unique_fd.hpp"
#include "host/device_stack.hpp"
#include "host/node_file.hpp"
#include "host/storage_probe.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/fuse_disk.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::host {
namespace {

using namespace std::chrono_literals;

const auto kSelf = static_cast<std::uint32_t>(::getpid());

/// A process that holds a file open, as QEMU does.
class Holder {
 public:
  explicit Holder(const std::string& path) : fd_(::open(path.c_str(), O_RDWR | O_CLOEXEC)), pid_(::fork()) {
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      while (true) ::pause();
    }
    number_ = static_cast<std::uint32_t>(fd_.get());
    fd_.reset();
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  ~Holder() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  std::uint32_t pid() const { return static_cast<std::uint32_t>(pid_); }
  std::uint32_t fd() const { return number_; }

 private:
  UniqueFd fd_;
  pid_t pid_;
  std::uint32_t number_ = 0;
};

std::string source_of(std::string_view mountinfo, std::string_view path) {
  const auto mounts = parse_mounts(mountinfo);
  const MountLine* mount = mount_of(mounts, path);
  return mount == nullptr ? "" : mount->source;
}

TEST(HostMount, TakesTheLongestPointAndTheLastOfTwoAtOnePoint) {
  const std::string_view mountinfo =
      "1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
      "2 1 0:30 / /mnt rw - tmpfs old rw\n"
      "3 1 0:31 / /mnt rw - tmpfs new rw\n"
      "4 1 0:32 / /mnt/with\\040blank ro - xfs /dev/x rw\n";
  EXPECT_EQ(source_of(mountinfo, "/mnt/a"), "new");
  EXPECT_EQ(source_of(mountinfo, "/mntx/a"), "/dev/sda1");
  const auto mounts = parse_mounts(mountinfo);
  EXPECT_EQ(mount_of(mounts, "/mnt/with blank/a")->type, "xfs");
  EXPECT_TRUE(mount_of(mounts, "/mnt/with blank/a")->read_only());
  EXPECT_FALSE(mount_of(mounts, "/mnt/a")->read_only());
}

TEST(HostMount, TheDeviceNumberDecidesWhereItIsKnown) {
  const std::string_view mountinfo =
      "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
      "2 1 0:30 / /mnt rw - tmpfs under rw\n"
      "3 1 0:31 / /mnt rw - tmpfs over rw\n";
  const auto mounts = parse_mounts(mountinfo);
  EXPECT_EQ(mount_of(mounts, "/mnt/a", 0, 30)->source, "under");
  EXPECT_EQ(mount_of(mounts, "/elsewhere", 0, 31)->source, "over");
  EXPECT_EQ(mount_of(mounts, "/mnt/a", 9, 9), nullptr);
}

TEST(HostNodeFile, ShowsTheOpenFileAndItsFileSystem) {
  const test::TempDir dir;
  const std::string path = dir.sparse("disk.raw", 12345);
  const Holder holder(path);
  const NodeFacts facts = look_at_node(holder.pid(), path);
  EXPECT_EQ(facts.file.flags & ~trace::kNodeReadOnlyFs, 0u);
  EXPECT_EQ(facts.file.fd, holder.fd());
  EXPECT_EQ(facts.file.size_bytes, 12345u);
  EXPECT_GT(facts.file.fs_size_bytes, 0u);
  EXPECT_EQ(facts.file.dev, facts.file.path_rdev);
  EXPECT_FALSE(facts.mount_point.empty());
  EXPECT_FALSE(facts.fs_type.empty());
}

TEST(HostNodeFile, ResolvesARelativePathAgainstTheWorkingFolder) {
  const test::TempDir dir;
  const std::string path = dir.sparse("disk.raw", 7);
  const Holder holder(path);
  const std::string relative = std::filesystem::relative(path).string();
  // Only paths without ".." are compared as text; the rest is told by identity.
  EXPECT_EQ(look_at_node(holder.pid(), relative).file.fd, holder.fd());
}

TEST(HostNodeFile, TakesNoOtherFoldersFileForARelativePath) {
  const test::TempDir dir;
  // A process whose working folder cannot be seen, as another user's; its root has a file of that name.
  dir.sparse("disk.raw", 7);
  std::filesystem::create_directories(dir / "proc/42");
  std::filesystem::create_symlink(dir.path(), dir / "proc/42/root");
  const NodeFacts absolute = look_at_node(42, "/disk.raw", dir / "proc");
  EXPECT_EQ(absolute.file.flags & trace::kNodeStatFailed, 0u);
  const NodeFacts relative = look_at_node(42, "disk.raw", dir / "proc");
  EXPECT_NE(relative.file.flags & trace::kNodeStatFailed, 0u);
  EXPECT_NE(relative.file.error, 0u);
  EXPECT_EQ(relative.file.flags & trace::kNodePathMissing, 0u) << "that is not known";
}

TEST(HostNodeFile, FindsTheDescriptorBehindASymbolicLink) {
  const test::TempDir dir;
  const std::string path = dir.sparse("disk.raw", 7);
  std::filesystem::create_symlink(path, dir / "link");
  const Holder holder(path);
  const NodeFacts facts = look_at_node(holder.pid(), dir / "link");
  EXPECT_EQ(facts.file.fd, holder.fd());
  EXPECT_EQ(facts.file.flags & trace::kNodePathDiffers, 0u);
}

TEST(HostNodeFile, TellsAnUnlinkedFileFromAReplacedOne) {
  const test::TempDir dir;
  const std::string path = dir.sparse("disk.raw", 100);
  const Holder holder(path);
  std::filesystem::remove(path);
  NodeFacts facts = look_at_node(holder.pid(), path);
  EXPECT_EQ(facts.file.flags & (trace::kNodeDeleted | trace::kNodePathMissing | trace::kNodePathDiffers),
            static_cast<std::uint32_t>(trace::kNodeDeleted | trace::kNodePathMissing));
  EXPECT_EQ(facts.file.size_bytes, 100u);
  dir.sparse("disk.raw", 200);
  facts = look_at_node(holder.pid(), path);
  EXPECT_EQ(facts.file.flags & (trace::kNodeDeleted | trace::kNodePathMissing | trace::kNodePathDiffers),
            static_cast<std::uint32_t>(trace::kNodeDeleted | trace::kNodePathDiffers));
  EXPECT_EQ(facts.file.size_bytes, 100u);
}

TEST(HostNodeFile, SaysWhenNoDescriptorShowsThePath) {
  const test::TempDir dir;
  const std::string path = dir.sparse("disk.raw", 100);
  const Holder holder("/dev/null");
  NodeFacts facts = look_at_node(holder.pid(), path);
  EXPECT_EQ(facts.file.flags & trace::kNodeNoFd, static_cast<std::uint32_t>(trace::kNodeNoFd));
  EXPECT_EQ(facts.file.size_bytes, 100u);
  facts = look_at_node(holder.pid(), dir / "nothing");
  EXPECT_NE(facts.file.flags & trace::kNodeStatFailed, 0u);
  EXPECT_NE(facts.file.flags & trace::kNodePathMissing, 0u);
  EXPECT_EQ(facts.file.error, ENOENT);
}

TEST(HostTail, BeginsAtALineAndRefusesWhatIsNoFile) {
  const test::TempDir dir;
  const std::string path = dir.write("log", "first line\nsecond line\nthird\n");
  EXPECT_EQ(read_tail(0, path, 1000).text, "first line\nsecond line\nthird\n");
  const Tail tail = read_tail(kSelf, path, 10);
  EXPECT_EQ(tail.text, "third\n");
  EXPECT_EQ(tail.offset, 23u);
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  EXPECT_NE(read_tail(0, dir / "fifo", 100).error, 0);
  EXPECT_EQ(read_tail(0, dir / "nothing", 100).error, ENOENT);
}

class HostStorageProbe : public ::testing::Test {
 protected:
  HostStorageProbe() {
    auto started = StorageProbe::start();
    if (!started) throw std::runtime_error(to_string(started.error()));
    probe = std::move(*started);
    probe->attach(io);
  }

  void run_until(const std::function<bool()>& done) {
    const auto deadline = test::deadline_in();
    while (!done() && std::chrono::steady_clock::now() < deadline) {
      io.restart();
      io.run_for(10ms);
    }
    ASSERT_TRUE(done());
  }

  boost::asio::io_context io;
  std::unique_ptr<StorageProbe> probe;
};

TEST_F(HostStorageProbe, AnswersForManyFilesAtOnce) {
  const test::TempDir dir;
  int answers = 0;
  for (int i = 0; i < 40; ++i) {
    const std::string path = dir.sparse("disk" + std::to_string(i), static_cast<std::uint64_t>(1000 + i));
    probe->look(kSelf, path, 60s, [&, i](const StorageProbe::NodeAnswer& answer) {
      EXPECT_TRUE(answer.reached);
      EXPECT_EQ(answer.facts.file.size_bytes, static_cast<std::uint64_t>(1000 + i));
      EXPECT_GT(answer.facts.file.waited_ns, 0u);
      ++answers;
    });
  }
  run_until([&] { return answers == 40; });
}

TEST_F(HostStorageProbe, ReadsTheTailOfALog) {
  const test::TempDir dir;
  const std::string path = dir.write("log", "qemu: boom\n");
  std::string text;
  probe->tail(kSelf, path, 60s, [&](const StorageProbe::TailAnswer& answer) { text = answer.tail.text; });
  run_until([&] { return !text.empty(); });
  EXPECT_EQ(text, "qemu: boom\n");
}

TEST_F(HostStorageProbe, TellsThatItsHelperDied) {
  bool told = false;
  ::kill(static_cast<pid_t>(probe->helper_pid()), SIGKILL);
  probe->look(kSelf, "/", 60s, [&](const StorageProbe::NodeAnswer& answer) {
    EXPECT_FALSE(answer.reached);
    EXPECT_NE(answer.facts.file.flags & trace::kNodeUnreachable, 0u);
    told = true;
  });
  run_until([&] { return told; });
}

TEST_F(HostStorageProbe, RefusesAPathThatCannotBeSent) {
  bool told = false;
  probe->look(kSelf, std::string(5000, 'x'), 60s, [&](const StorageProbe::NodeAnswer& answer) {
    EXPECT_FALSE(answer.reached);
    told = true;
  });
  run_until([&] { return told; });
}

/// A FUSE file system whose server never answers: whoever looks at it waits for ever.
class HungMount {
 public:
  explicit HungMount(const std::filesystem::path& folder) : fuse_(::open("/dev/fuse", O_RDWR | O_CLOEXEC)) {
    std::filesystem::create_directory(folder);
    const std::string options =
        "fd=" + std::to_string(fuse_.get()) + ",rootmode=40000,user_id=0,group_id=0,allow_other";
    mount_ = std::make_unique<test::Mount>("hung", folder, "fuse", options);
  }

 private:
  UniqueFd fuse_;
  std::unique_ptr<test::Mount> mount_;
};

TEST_F(HostStorageProbe, GivesUpOnAHungFileSystemAndGoesOn) {
  VMWHY_NEEDS(mount);
  VMWHY_NEEDS(fuse);
  const test::TempDir dir;
  const HungMount hung(dir.path() / "hung");
  // The helper was forked before the mount; a new one sees it whatever namespace the mount made.
  auto fresh = StorageProbe::start();
  ASSERT_TRUE(fresh);
  probe = std::move(*fresh);
  probe->attach(io);

  std::optional<StorageProbe::NodeAnswer> stuck, again, healthy;
  probe->look(0, dir / "hung/disk.raw", 100ms, [&](const StorageProbe::NodeAnswer& a) { stuck = a; });
  probe->look(0, dir.sparse("disk.raw", 5), 60s, [&](const StorageProbe::NodeAnswer& a) { healthy = a; });
  run_until([&] { return healthy.has_value(); });
  EXPECT_TRUE(healthy->reached);
  run_until([&] { return stuck.has_value(); });
  EXPECT_FALSE(stuck->reached);
  EXPECT_NE(stuck->facts.file.flags & trace::kNodeUnreachable, 0u);
  EXPECT_GE(stuck->facts.file.waited_ns, 100'000'000u);
  // The children that were given up can be killed here; the answer is the same either way.
  probe->look(0, dir / "hung/disk.raw", 100ms, [&](const StorageProbe::NodeAnswer& a) { again = a; });
  run_until([&] { return again.has_value(); });
  EXPECT_FALSE(again->reached);
}

// A process holds many files: one of them that hangs must not make the others look hung.
TEST_F(HostStorageProbe, ReachesAFileBesideOneThatHangs) {
  VMWHY_NEEDS(mount);
  VMWHY_NEEDS(fuse);
  const test::TempDir dir;
  test::FuseDisk fuse(dir.path() / "fuse");
  const UniqueFd sick(::open(fuse.file().c_str(), O_RDWR | O_CLOEXEC));
  const std::string path = dir.sparse("healthy.raw", 5);
  std::filesystem::create_symlink(path, dir / "link");
  const UniqueFd well(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  auto fresh = StorageProbe::start();
  ASSERT_TRUE(fresh);
  probe = std::move(*fresh);
  probe->attach(io);
  fuse.hang_attributes();
  int answers = 0;
  for (const std::string& name : {path, std::string(dir / "link")})
    probe->look(kSelf, name, 10s, [&](const StorageProbe::NodeAnswer& answer) {
      EXPECT_TRUE(answer.reached);
      EXPECT_EQ(answer.facts.file.fd, static_cast<std::uint32_t>(well.get()));
      ++answers;
    });
  run_until([&] { return answers == 2; });
  EXPECT_FALSE(fuse.hung());
  fuse.let_go();
}

}  // namespace
}  // namespace vmwhy::host
