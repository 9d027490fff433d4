// SPDX-License-Identifier: BSD-2-Clause
// Recorders that are killed at a random moment, and recovery.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <csignal>
#include <fstream>
#include <random>
#include <thread>

#include "../support/temp_dir.hpp"
#include "../support/trace_samples.hpp"
#include "../support/wait.hpp"
#include "trace/reader.hpp"
#include "trace/writer.hpp"

namespace vmwhy::trace {
namespace {

using namespace std::chrono_literals;

// What the recorder tells of itself, in memory that survives it.
struct Progress {
  std::atomic<std::uint32_t> synced;  // Records before this number have been written.
};

OwnedRecord nth(std::uint32_t n) {
  if (n % 7 == 0) return make_record(n, 1, QmpMessage{.link = n}, std::string(n % 300, 'q'));
  return make_record(n, 1, test::SyntheticExit{n, n % 5, n * 0x9E3779B97F4A7C15ull, n, 0});
}

std::uint32_t number_of(const RecordView& r) {
  return r.type() == RecordType::qmp_message ? r.as<QmpMessage>().link : r.as<test::SyntheticExit>().vcpu;
}

[[noreturn]] void record_for_ever(const std::string& path, unsigned seed, Progress& progress) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::mt19937 random(seed);
  auto writer = Writer::create(path, {{"tool", "test"}}, {.flush_interval = 1ms, .block_bytes = 1u << 14});
  if (!writer) ::_exit(9);
  for (std::uint32_t n = 0;;) {
    for (std::uint32_t batch = 1 + random() % 2000; batch > 0; --batch) (*writer)->append(nth(n++).view());
    if (random() % 3 == 0) (*writer)->flush();
    if ((*writer)->sync(60s)) progress.synced = n;
  }
}

class TraceKill : public ::testing::Test {
 protected:
  TraceKill()
      : progress_(*new (::mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                               -1, 0)) Progress{}) {}
  ~TraceKill() override { ::munmap(&progress_, sizeof progress_); }

  // One run: everything that was synced is there, in order, and so is it after recovery.
  void run_and_kill(std::mt19937& random) {
    const std::string path = dir_ / "killed.vmt";
    std::filesystem::remove(path);
    progress_.synced = 0;
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) record_for_ever(path, random(), progress_);
    EXPECT_TRUE(test::wait_until([&] { return progress_.synced != 0; }));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 10'000));  // The random moment.
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the recorder itself failed: " << WEXITSTATUS(status);

    const std::uint32_t synced = progress_.synced;
    const std::uint32_t read = unbroken(path);
    EXPECT_GE(read, synced);
    const std::string mended = dir_ / "mended.vmt";
    std::filesystem::remove(mended);
    const auto report = recover(path, mended);
    ASSERT_TRUE(report) << to_string(report.error());
    EXPECT_FALSE(report->ended);
    EXPECT_EQ(unbroken(mended), read);
    auto reader = Reader::open(mended);
    ASSERT_TRUE(reader);
    (*reader)->for_each([](const RecordView&) {});
    EXPECT_TRUE((*reader)->report().ended);
    EXPECT_EQ((*reader)->report().damaged_blocks, 0u);
  }

  // Counts the records, which must be numbered from 0 without a gap.
  static std::uint32_t unbroken(const std::string& path) {
    auto reader = Reader::open(path);
    EXPECT_TRUE(reader) << to_string(reader.error());
    if (!reader) return 0;
    std::uint32_t next = 0, wrong = 0;
    (*reader)->for_each([&](const RecordView& r) { wrong += number_of(r) == next++ ? 0 : 1; });
    EXPECT_EQ(wrong, 0u);
    return next;
  }

  test::TempDir dir_;
  Progress& progress_;
};

TEST_F(TraceKill, TwoHundredKilledRecordersLoseNothingThatWasFlushed) {
  std::mt19937 random(2026);
  for (int run = 0; run < 200 && !HasFailure(); ++run) run_and_kill(random);
}

TEST(TraceRecover, KeepsEveryGoodBlockAndSaysWhatIsGone) {
  const test::TempDir dir;
  const std::string path = dir / "a.vmt";
  {
    auto writer = Writer::create(path, {{"tool", "test"}}, {.block_bytes = 1u << 13});
    ASSERT_TRUE(writer);
    for (std::uint32_t n = 0; n < 5000; ++n) (*writer)->append(nth(n).view());
    ASSERT_TRUE((*writer)->close());
  }
  std::string bytes = test::read_file(path);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 0x55);
  bytes.resize(bytes.size() - 20);  // Half of the end block.
  const std::string damaged = dir.write("damaged.vmt", bytes);
  const auto report = recover(damaged, dir / "mended.vmt");
  ASSERT_TRUE(report);
  EXPECT_EQ(report->damaged_blocks, 2u);
  auto mended = Reader::open(dir / "mended.vmt");
  ASSERT_TRUE(mended);
  std::uint64_t records = 0;
  (*mended)->for_each([&](const RecordView&) { ++records; });
  EXPECT_EQ(records, report->records);
  EXPECT_LT(records, 5000u);
  EXPECT_GT(records, 4000u);
  const ReadReport& health = (*mended)->report();
  EXPECT_TRUE(health.ended);
  EXPECT_EQ(health.damaged_blocks, 0u);
  EXPECT_EQ((*mended)->meta().at("tool").as_string(), "test");
  EXPECT_EQ((*mended)->meta().at("recovered").as_object().at("damaged_blocks").to_number<int>(), 2);
  bool missing = false;
  for (const auto& note : health.notes) missing = missing || note.find("is missing") != std::string::npos;
  EXPECT_TRUE(missing) << "the hole stays visible";
}

TEST(TraceRecover, NeverWritesOverItsSourceOrOtherFiles) {
  const test::TempDir dir;
  const std::string path = dir / "a.vmt";
  test::write_trace(path, test::one_of_each());
  const std::string before = test::read_file(path);
  EXPECT_FALSE(recover(path, path));
  ASSERT_EQ(::link(path.c_str(), (dir / "same").c_str()), 0);
  EXPECT_FALSE(recover(path, dir / "same"));
  EXPECT_FALSE(recover(path, dir.write("text", "no trace")));
  test::write_trace(dir / "other.vmt", test::one_of_each());
  EXPECT_FALSE(recover(path, dir / "other.vmt")) << "another recording";
  EXPECT_EQ(test::read_file(path), before);
  EXPECT_FALSE(recover(dir / "nothing", dir / "out.vmt"));
  EXPECT_FALSE(std::filesystem::exists(dir / "out.vmt"));
}

}  // namespace
}  // namespace vmwhy::trace
