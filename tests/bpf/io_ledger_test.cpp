// SPDX-License-Identifier: BSD-2-Clause
// The probe family io_ledger on real system calls of this process.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <thread>

#include "bpf/load/io_ledger.hpp"
#include "bpf/load/ring.hpp"
#include "core/unique_fd.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/fuse_disk.hpp"
#include "tests/support/loop_device.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::test {
namespace {

using bpf::IoLedger;
using bpf::IoLedgerOptions;
using Form = IoLedgerOptions::Form;

/// Why this kernel, or what guards it, takes no program on functions; empty: it does.
const std::string& function_form_error() {
  static const std::string error = [] {
    IoLedgerOptions options;
    options.form = Form::function;
    const auto opened = IoLedger::open(bpf::look_around(), options);
    return opened ? std::string() : to_string(opened.error());
  }();
  return error;
}

class IoLedgerProbe : public ::testing::TestWithParam<Form> {
 protected:
  void SetUp() override {
    VMWHY_NEEDS(bpf);
    if (GetParam() == Form::function && !function_form_error().empty())
      GTEST_SKIP() << "needs fentry: " << function_form_error();
  }

  void open(IoLedgerOptions options = {}) {
    options.form = GetParam();
    auto opened = IoLedger::open(bpf::look_around(), options);
    ASSERT_TRUE(opened) << to_string(opened.error());
    ledger_ = std::move(*opened);
    ASSERT_TRUE(ledger_->watch(static_cast<std::uint32_t>(::getpid())));
    auto reader = bpf::RingReader::create(ledger_->ring_fd(), [this](const void* data, std::size_t bytes) {
      io_ledger_event event{};
      ASSERT_EQ(bytes, sizeof(event));
      std::memcpy(&event, data, bytes);
      if (event.what != IO_LEDGER_BLOCK) events_.push_back(event);
    });
    ASSERT_TRUE(reader) << to_string(reader.error());
    reader_ = std::move(*reader);
  }
  /// What this thread's calls came to, so far.
  const std::vector<io_ledger_event>& events() {
    reader_->drain();
    return events_;
  }
  std::uint64_t counter(io_ledger_stat stat) const { return ledger_->losses().counters[stat]; }

  std::unique_ptr<IoLedger> ledger_;
  std::unique_ptr<bpf::RingReader> reader_;
  std::vector<io_ledger_event> events_;
};

TEST_P(IoLedgerProbe, TellsAWriteThatFindsNoSpaceWithFileOffsetAndLength) {
  VMWHY_NEEDS(mount);
  open();
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=64k");
  const UniqueFd fd(::open((small / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_TRUE(fd);
  const std::string bytes(64 << 10, 'x');
  ASSERT_EQ(::pwrite(fd.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  ASSERT_EQ(::pwrite(fd.get(), bytes.data(), 4096, 1 << 20), -1);
  ASSERT_EQ(errno, ENOSPC);
  ASSERT_EQ(events().size(), 1u) << "successes are no records";
  const io_ledger_event& event = events_[0];
  struct stat file {};
  ASSERT_EQ(::fstat(fd.get(), &file), 0);
  EXPECT_EQ(event.what, static_cast<std::uint32_t>(IO_LEDGER_FAILED));
  EXPECT_EQ(event.call, static_cast<std::uint32_t>(IO_LEDGER_PWRITE64));
  EXPECT_EQ(event.op, static_cast<std::uint32_t>(IO_LEDGER_OP_WRITE));
  EXPECT_EQ(event.result, -ENOSPC);
  EXPECT_EQ(event.fd, fd.get());
  EXPECT_EQ(event.offset, 1u << 20);
  EXPECT_EQ(event.length, 4096u);
  EXPECT_EQ(event.ino, file.st_ino);
  EXPECT_EQ(event.dev >> 20, major(file.st_dev));
  EXPECT_EQ(event.dev & 0xfffff, minor(file.st_dev));
  EXPECT_EQ(event.tgid, static_cast<std::uint32_t>(::getpid()));
  EXPECT_EQ(event.tid, static_cast<std::uint32_t>(::gettid()));
  EXPECT_EQ(counter(IO_LEDGER_STAT_CALLS), 2u);
  EXPECT_EQ(counter(IO_LEDGER_STAT_READ_FAILED), 0u);
}

TEST_P(IoLedgerProbe, TellsAShortVectorWithTheLengthAskedFor) {
  VMWHY_NEEDS(mount);
  open();
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=64k");
  const UniqueFd fd(::open((small / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  std::string first(48 << 10, 'x'), second(32 << 10, 'y');
  const iovec vectors[] = {{first.data(), first.size()}, {second.data(), second.size()}};
  const ssize_t wrote = ::pwritev(fd.get(), vectors, 2, 0);
  ASSERT_GT(wrote, 0);
  ASSERT_LT(wrote, 80 << 10);
  ASSERT_EQ(events().size(), 1u);
  EXPECT_EQ(events_[0].what, static_cast<std::uint32_t>(IO_LEDGER_SHORT));
  EXPECT_EQ(events_[0].call, static_cast<std::uint32_t>(IO_LEDGER_PWRITEV));
  EXPECT_EQ(events_[0].length, 80u << 10);
  EXPECT_EQ(events_[0].result, wrote);
}

TEST_P(IoLedgerProbe, TakesAReadAtTheEndOfTheFileForNoShortOne) {
  open();
  const TempDir dir;
  const UniqueFd fd(::open((dir / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(::ftruncate(fd.get(), 1000), 0);
  char bytes[4096];
  ASSERT_EQ(::pread(fd.get(), bytes, sizeof bytes, 0), 1000);
  ASSERT_EQ(::pread(fd.get(), bytes, sizeof bytes, 5000), 0);
  EXPECT_TRUE(events().empty());
}

TEST_P(IoLedgerProbe, NamesTheErrnoOfEachCall) {
  open();
  const TempDir dir;
  const UniqueFd file(::open((dir / "file").c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0600));
  char bytes[512]{};
  iovec vector{bytes, sizeof bytes};
  // Each but the flushes finds a descriptor that was not opened for it.
  const UniqueFd write_only(::open((dir / "file").c_str(), O_WRONLY | O_CLOEXEC));
  EXPECT_EQ(::pread(write_only.get(), bytes, sizeof bytes, 0), -1);
  EXPECT_EQ(::preadv(write_only.get(), &vector, 1, 0), -1);
  EXPECT_EQ(::preadv2(write_only.get(), &vector, 1, 0, 0), -1);
  EXPECT_EQ(::pwrite(file.get(), bytes, sizeof bytes, 0), -1);
  EXPECT_EQ(::pwritev(file.get(), &vector, 1, 0), -1);
  EXPECT_EQ(::pwritev2(file.get(), &vector, 1, 0, 0), -1);
  EXPECT_EQ(::fallocate(file.get(), FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, 4096), -1);
  EXPECT_EQ(::fsync(-1), -1);
  EXPECT_EQ(::fdatasync(-1), -1);
  std::vector<std::uint32_t> calls;
  for (const io_ledger_event& event : events()) {
    calls.push_back(event.call);
    EXPECT_EQ(event.result, -EBADF);
  }
  EXPECT_EQ(calls, (std::vector<std::uint32_t>{IO_LEDGER_PREAD64, IO_LEDGER_PREADV, IO_LEDGER_PREADV2,
                                               IO_LEDGER_PWRITE64, IO_LEDGER_PWRITEV, IO_LEDGER_PWRITEV2,
                                               IO_LEDGER_FALLOCATE, IO_LEDGER_FSYNC, IO_LEDGER_FDATASYNC}));
  EXPECT_EQ(events_[6].op, static_cast<std::uint32_t>(IO_LEDGER_OP_DISCARD));
  EXPECT_EQ(events_[7].op, static_cast<std::uint32_t>(IO_LEDGER_OP_FLUSH));
}

TEST_P(IoLedgerProbe, NamesAFileSizeLimit) {
  open();
  const TempDir dir;
  const UniqueFd fd(::open((dir / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const ssize_t wrote = ::pwrite(fd.get(), "x", 1, 8192);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, old);
  ASSERT_EQ(wrote, -1);
  ASSERT_EQ(events().size(), 1u);
  EXPECT_EQ(events_[0].result, -EFBIG);
}

TEST_P(IoLedgerProbe, SeesOnlyWhoIsWatched) {
  open();
  ledger_->unwatch(static_cast<std::uint32_t>(::getpid()));
  EXPECT_EQ(::fsync(-1), -1);
  EXPECT_TRUE(events().empty());
  EXPECT_EQ(counter(IO_LEDGER_STAT_CALLS), 0u);
  EXPECT_TRUE(ledger_->under_way().empty());
}

TEST_P(IoLedgerProbe, CountsWhatAFullRingCouldNotTake) {
  IoLedgerOptions options;
  options.ring_bytes = 4096;
  open(options);
  constexpr std::uint64_t kCalls = 1000;
  for (std::uint64_t i = 0; i < kCalls; ++i) EXPECT_EQ(::fsync(-1), -1);
  EXPECT_GT(ledger_->losses().lost(), 0u);
  EXPECT_EQ(events().size() + ledger_->losses().lost(), kCalls);
}

TEST_P(IoLedgerProbe, ShowsARequestThatHangsAndTellsItWhenItEnds) {
  VMWHY_NEEDS(fuse);
  IoLedgerOptions options;
  options.slow_ns = 1'000'000;
  open(options);
  const TempDir dir;
  FuseDisk disk(dir.path() / "fuse");
  const UniqueFd fd(::open(disk.file().c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(fd);
  disk.hang_data();
  std::uint32_t tid = 0;
  std::thread writer([&] {
    __atomic_store_n(&tid, static_cast<std::uint32_t>(::gettid()), __ATOMIC_RELEASE);
    EXPECT_EQ(::pwrite(fd.get(), "x", 1, 4096), 1);
  });
  std::vector<io_ledger_slot> seen;
  const bool hangs = wait_until([&] {
    for (const io_ledger_slot& slot : ledger_->under_way())
      if (static_cast<std::uint32_t>(slot.owner) == __atomic_load_n(&tid, __ATOMIC_ACQUIRE))
        seen.push_back(slot);
    return !seen.empty();
  });
  disk.let_go();
  writer.join();
  ASSERT_TRUE(hangs);
  EXPECT_EQ(seen[0].call, static_cast<std::uint32_t>(IO_LEDGER_PWRITE64));
  EXPECT_EQ(seen[0].fd, fd.get());
  EXPECT_EQ(seen[0].offset, 4096u);
  EXPECT_TRUE(ledger_->under_way().empty());
}

TEST_P(IoLedgerProbe, CountsSuccessesByDescriptorInTheRowAskedFor) {
  IoLedgerOptions options;
  options.rows = 4;
  open(options);
  const TempDir dir;
  const UniqueFd counted(::open((dir / "a").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const UniqueFd other(::open((dir / "b").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_TRUE(ledger_->count_file(static_cast<std::uint32_t>(::getpid()), counted.get(), {}, 2));
  EXPECT_FALSE(ledger_->count_file(1, 1, {}, 4)) << "there is no such row";
  const std::string bytes(4096, 'x');
  for (int i = 0; i < 10; ++i) {
    ASSERT_EQ(::pwrite(counted.get(), bytes.data(), bytes.size(), i * 4096), 4096);
    ASSERT_EQ(::pwrite(other.get(), bytes.data(), bytes.size(), i * 4096), 4096);
  }
  ASSERT_EQ(::fdatasync(counted.get()), 0);
  const auto cells = ledger_->row(2);
  EXPECT_EQ(cells[0].count, 0u);
  EXPECT_EQ(cells[1].count, 10u);
  EXPECT_EQ(cells[1].bytes, 40960u);
  EXPECT_EQ(cells[1].errors, 0u);
  EXPECT_EQ(cells[2].count, 1u);
  std::uint64_t timed = 0;
  for (const std::uint64_t bucket : cells[1].log2) timed += bucket;
  EXPECT_EQ(timed, 10u);
  EXPECT_GE(cells[1].total_ns, cells[1].max_ns);
  EXPECT_EQ(ledger_->row(1)[1].count, 0u);
}

TEST_P(IoLedgerProbe, CountsAndTimesRequestsOfADisk) {
  VMWHY_NEEDS(loop);
  IoLedgerOptions options;
  options.rows = 1;
  open(options);
  const TempDir dir;
  const LoopDevice loop(dir.sparse("backing", 1 << 20));
  struct stat device {};
  ASSERT_EQ(::stat(loop.path().c_str(), &device), 0);
  ASSERT_TRUE(ledger_->count_disk(major(device.st_rdev) << 20 | minor(device.st_rdev), 0));
  const UniqueFd fd(::open(loop.path().c_str(), O_RDWR | O_CLOEXEC));
  const std::string bytes(64 << 10, 'x');
  ASSERT_EQ(::pwrite(fd.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  ASSERT_EQ(::fsync(fd.get()), 0);
  const auto cells = ledger_->row(0);
  EXPECT_GE(cells[1].count, 1u);
  EXPECT_EQ(cells[1].bytes, bytes.size());
  EXPECT_GT(cells[1].max_ns, 0u);
  EXPECT_TRUE(ledger_->block_under_way().empty());
}

INSTANTIATE_TEST_SUITE_P(Forms, IoLedgerProbe, ::testing::Values(Form::function, Form::raw),
                         [](const auto& info) { return info.param == Form::raw ? "Raw" : "Function"; });

TEST(IoLedger, TaxesNobodyUnlessAskedTo) {
  VMWHY_NEEDS(bpf);
  const auto opened = IoLedger::open(bpf::look_around());
  ASSERT_TRUE(opened) << to_string(opened.error());
  const auto& sources = (*opened)->sources();
  ASSERT_EQ(sources.size(), 4u);
  EXPECT_EQ(sources[0].name, "system calls");
  EXPECT_EQ(sources[0].attached, function_form_error().empty());
  EXPECT_EQ(sources[0].error.empty(), function_form_error().empty());
}

TEST(IoLedger, TakesTracepointsWhereItIsAskedToAndSaysSo) {
  VMWHY_NEEDS(bpf);
  IoLedgerOptions options;
  options.form = Form::any;
  const auto opened = IoLedger::open(bpf::look_around(), options);
  ASSERT_TRUE(opened) << to_string(opened.error());
  const auto& sources = (*opened)->sources();
  ASSERT_EQ(sources.size(), 4u);
  EXPECT_TRUE(sources[0].attached);
  EXPECT_EQ(sources[2].name, "device mapper and md");
  EXPECT_TRUE(sources[2].attached) << sources[2].error;
  EXPECT_EQ(sources[0].form, function_form_error().empty() ? "fexit" : "raw_tp");
}

TEST(IoLedger, NamesABlockStatusAsTheKernelLogDoes) {
  EXPECT_STREQ(bpf::block_status(7).name, "critical medium");
  EXPECT_EQ(bpf::block_status(7).error, ENODATA);
  EXPECT_EQ(bpf::block_status(3).error, ENOSPC);
  EXPECT_EQ(bpf::block_status(-EREMOTEIO).error, EREMOTEIO);
  EXPECT_EQ(bpf::block_status(200).error, EIO);
}

}  // namespace
}  // namespace vmwhy::test
