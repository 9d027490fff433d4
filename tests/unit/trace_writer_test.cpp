// SPDX-License-Identifier: BSD-2-Clause
// The writer: what it refuses to overwrite, what it loses and counts, a file that cannot grow, being killed.
#include "trace/writer.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <csignal>
#include <random>
#include <thread>

#include "../support/capability.hpp"
#include "../support/mount.hpp"
#include "../support/temp_dir.hpp"
#include "../support/trace_samples.hpp"
#include "../support/wait.hpp"
#include "record/recorder.hpp"
#include "trace/reader.hpp"

namespace vmwhy::trace {
namespace {

using namespace std::chrono_literals;

OwnedRecord numbered(std::uint32_t n) {
  return make_record(1'000 + n, 1, Watch{1, n});
}

std::unique_ptr<Writer> create(const std::string& path, WriterOptions options = {}) {
  auto writer = Writer::create(path, {{"tool", "test"}}, options);
  EXPECT_TRUE(writer) << to_string(writer.error());
  return writer ? std::move(*writer) : nullptr;
}

std::unique_ptr<Reader> open(const std::string& path) {
  auto reader = Reader::open(path);
  EXPECT_TRUE(reader) << to_string(reader.error());
  return reader ? std::move(*reader) : nullptr;
}

std::string refusal(const std::string& path) {
  auto writer = Writer::create(path, {});
  return writer ? std::string() : to_string(writer.error());
}

TEST(TraceWriter, WhatIsAppendedIsReadBackWithMetaAndSchema) {
  const test::TempDir dir;
  const std::string path = dir / "a.vmt";
  auto records = test::one_of_each();
  for (auto& exit : test::synthetic_exits(100'000)) records.push_back(exit);
  {
    const auto writer = create(path);
    for (const auto& record : records) writer->append(record.view());
    writer->add_meta({{"probes", 3}});
    const auto stats = writer->close();
    ASSERT_TRUE(stats);
    EXPECT_EQ(stats->records, records.size());
    EXPECT_EQ(stats->lost, 0u);
    EXPECT_EQ(stats->bytes, std::filesystem::file_size(path));
  }
  struct stat st {};
  ASSERT_EQ(::stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
  const auto reader = open(path);
  const auto got = test::all_records(*reader);
  ASSERT_EQ(got.size(), records.size());
  for (std::size_t i = 0; i < got.size(); ++i) ASSERT_TRUE(test::same(got[i].view(), records[i].view())) << i;
  EXPECT_TRUE(reader->report().ended);
  EXPECT_TRUE(reader->report().notes.empty());
  EXPECT_EQ(reader->meta().at("tool").as_string(), "test");
  EXPECT_EQ(reader->meta().at("probes").as_int64(), 3);
  EXPECT_GT(reader->meta().at("schema").as_array().size(), 10u);
}

TEST(TraceWriter, TakesNoFileThatHoldsAnything) {
  const test::TempDir dir;
  EXPECT_EQ(refusal(dir / "new.vmt"), "");
  const std::string earlier = test::read_file(dir / "new.vmt");
  EXPECT_NE(refusal(dir / "new.vmt").find("earlier recording"), std::string::npos);
  EXPECT_EQ(test::read_file(dir / "new.vmt"), earlier);
  EXPECT_EQ(refusal(dir.write("empty", "")), "");
  const std::string text = dir.write("notes.txt", "remember the milk");
  EXPECT_NE(refusal(text).find("it is not a trace and is left alone"), std::string::npos);
  EXPECT_EQ(test::read_file(text), "remember the milk");
  EXPECT_NE(refusal(dir.path().string()).find("name a file in it"), std::string::npos);
  ASSERT_EQ(::symlink((dir / "new.vmt").c_str(), (dir / "link").c_str()), 0);
  EXPECT_NE(refusal(dir / "link").find("symbolic link"), std::string::npos);
  ASSERT_EQ(::symlink((dir / "elsewhere").c_str(), (dir / "dangling").c_str()), 0);
  EXPECT_NE(refusal(dir / "dangling").find("symbolic link"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(dir / "elsewhere"));
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  EXPECT_NE(refusal(dir / "fifo").find("regular file"), std::string::npos);
  EXPECT_NE(refusal("/dev/null").find("regular file"), std::string::npos);
  EXPECT_NE(refusal(dir / "no/such/folder.vmt").find("make its folder first"), std::string::npos);
}

TEST(TraceWriter, RefusesAFileThatAnotherRecordingWrites) {
  const test::TempDir dir;
  const auto writer = create(dir / "a.vmt");
  EXPECT_NE(refusal(dir / "a.vmt").find("another recording"), std::string::npos);
  writer->append(numbered(1).view());
  ASSERT_TRUE(writer->close());
  EXPECT_EQ(test::all_records(*open(dir / "a.vmt")).size(), 1u);
}

TEST(TraceWriter, RefusesAFileOfAnotherUser) {
  VMWHY_NEEDS(root);
  const test::TempDir dir;
  const std::string path = dir.write("theirs.vmt", "");
  ASSERT_EQ(::chown(path.c_str(), 65534, 65534), 0);
  EXPECT_NE(refusal(path).find("belongs to another user"), std::string::npos);
}

TEST(TraceWriter, ARecordIsOnDiskAfterTheInterval) {
  const test::TempDir dir;
  const auto writer = create(dir / "a.vmt", {.flush_interval = 20ms});
  const auto reader = open(dir / "a.vmt");
  std::uint32_t seen = 0;
  for (std::uint32_t i = 0; i < 3; ++i) {
    writer->append(numbered(i).view());
    EXPECT_TRUE(test::wait_until([&] {
      while (reader->next_block() != Reader::Step::end) reader->visit([&](const RecordView&) { ++seen; });
      return seen == i + 1;
    }));
  }
}

TEST(TraceWriter, SyncedRecordsCanBeReadWhileRecordingGoesOn) {
  const test::TempDir dir;
  const auto writer = create(dir / "a.vmt", {.flush_interval = 1h});
  const auto reader = open(dir / "a.vmt");
  std::uint32_t next = 0;
  for (std::uint32_t i = 0; i < 50; ++i) {
    for (std::uint32_t k = 0; k < 20; ++k) writer->append(numbered(i * 20 + k).view());
    ASSERT_TRUE(writer->sync(60s));
    while (reader->next_block() != Reader::Step::end)
      reader->visit([&](const RecordView& r) { EXPECT_EQ(r.as<Watch>().reserved, next++); });
    ASSERT_EQ(next, (i + 1) * 20);
    EXPECT_FALSE(reader->report().ended);
  }
  ASSERT_TRUE(writer->close());
  EXPECT_EQ(reader->next_block(), Reader::Step::end);
  EXPECT_TRUE(reader->report().ended);
}

TEST(TraceWriter, ARecordTooLongIsLostAndCounted) {
  const test::TempDir dir;
  const auto writer = create(dir / "a.vmt");
  writer->append(numbered(0).view());
  writer->append(make_record(2'000, 1, KernelLog{}, std::string(kMaxTextBytes + 1, 'x')).view());
  writer->append(numbered(2).view());
  const auto stats = writer->close();
  ASSERT_TRUE(stats);
  EXPECT_EQ(stats->lost, 1u);
  EXPECT_EQ(stats->records, 2u);
  const auto reader = open(dir / "a.vmt");
  EXPECT_EQ(test::all_records(*reader).size(), 2u);
  EXPECT_EQ(reader->report().lost, 1u);
}

TEST(TraceWriter, WhatTheQueueCannotTakeIsCountedInTheFile) {
  const test::TempDir dir;
  const auto writer = create(dir / "a.vmt", {.block_bytes = 1024, .queue_bytes = 8192});
  constexpr std::uint32_t kMany = 300'000;
  for (std::uint32_t i = 0; i < kMany; ++i) writer->append(numbered(i).view());
  const auto stats = writer->close();
  ASSERT_TRUE(stats);
  EXPECT_GT(stats->lost, 0u);
  EXPECT_EQ(stats->records + stats->lost, kMany);
  const auto reader = open(dir / "a.vmt");
  std::uint64_t read = 0;
  std::int64_t last = -1;
  reader->for_each([&](const RecordView& r) {
    ++read;
    EXPECT_GT(static_cast<std::int64_t>(r.as<Watch>().reserved), last);
    last = r.as<Watch>().reserved;
  });
  EXPECT_EQ(read, stats->records);
  EXPECT_EQ(reader->report().lost, stats->lost);
  EXPECT_EQ(reader->report().last_ns, 1'000u + kMany - 1) << "the time of lost records is in the range";
}

TEST(TraceWriter, CloseTwiceIsHarmlessAndLaterRecordsAreLost) {
  const test::TempDir dir;
  const auto writer = create(dir / "a.vmt");
  EXPECT_TRUE(writer->close());
  EXPECT_TRUE(writer->close());
  writer->append(numbered(0).view());
  EXPECT_EQ(writer->stats().lost, 1u);
}

// Appends until the file cannot grow, goes on for a while, closes. What is read back is an unbroken
// beginning, and what is missing is counted.
// @param limit  The file cannot be larger.
void expect_clean_stop(const std::string& path, const std::string& expected_error,
                       std::uint64_t limit = UINT64_MAX) {
  const auto writer = create(path, {.block_bytes = 4096});
  std::mt19937_64 random(7);
  std::uint32_t appended = 0;
  std::uint32_t synced = 0;
  const auto deadline = test::deadline_in();
  while (writer->stats().error.empty() && std::chrono::steady_clock::now() < deadline) {
    for (int k = 0; k < 50; ++k) {
      test::SyntheticExit exit{appended, 0, random(), random(), random()};
      writer->append(make_record(1'000 + appended++, 1, exit).view());
    }
    if (writer->sync(60s)) synced = appended;
  }
  const WriterStats failed = writer->stats();
  EXPECT_NE(failed.error.find(expected_error), std::string::npos) << failed.error;
  EXPECT_NE(failed.error.find(path), std::string::npos);
  for (int k = 0; k < 1000; ++k) writer->append(numbered(appended++).view());
  EXPECT_FALSE(writer->sync(10ms));
  const auto closed = writer->close();
  ASSERT_FALSE(closed);
  EXPECT_NE(to_string(closed.error()).find(expected_error), std::string::npos);
  EXPECT_EQ(writer->stats().error, failed.error) << "the first error is kept";
  EXPECT_EQ(writer->stats().records + writer->stats().lost, appended);

  const auto reader = open(path);
  std::uint32_t next = 0;
  reader->for_each([&](const RecordView& r) { EXPECT_EQ(r.as<test::SyntheticExit>().vcpu, next++); });
  EXPECT_GE(next, synced);
  EXPECT_GT(next, 0u);
  EXPECT_EQ(next, writer->stats().records);
  EXPECT_EQ(reader->report().damaged_blocks, 0u);
  // The half block made room for the end block, if it was not less than half a sector.
  if (limit - std::filesystem::file_size(path) < 256) return;
  EXPECT_TRUE(reader->report().ended);
  EXPECT_EQ(reader->report().lost, writer->stats().lost);
}

TEST(TraceWriter, StopsCleanlyWhenTheDiskIsFull) {
  VMWHY_NEEDS(mount);
  const test::TempDir dir;
  const test::Mount mount("none", dir.path(), "tmpfs", "size=256k");
  expect_clean_stop(mount / "a.vmt", "No space left on device");
}

TEST(TraceWriter, SaysSoWhenTheDiskIsFullFromTheBeginning) {
  VMWHY_NEEDS(mount);
  const test::TempDir dir;
  const test::Mount mount("none", dir.path(), "tmpfs", "size=64k");
  test::fill_up(mount.path());
  const std::string text = refusal(mount / "a.vmt");
  EXPECT_NE(text.find("No space left on device"), std::string::npos) << text;
  EXPECT_FALSE(std::filesystem::exists(mount / "a.vmt"));
}

TEST(TraceWriter, StopsCleanlyAtAFileSizeLimit) {
  const test::TempDir dir;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // SIGXFSZ keeps its default, deadly action: the writing thread must not receive it.
    const rlimit limit{128 * 1024, 128 * 1024};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    expect_clean_stop(dir / "a.vmt", "File too large", limit.rlim_cur);
    std::fflush(nullptr);
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(TraceRecorder, StoresAndTellsEachRecordAndTheErrorOnce) {
  const test::TempDir dir;
  std::vector<std::uint16_t> heard;
  record::Recorder recorder(create(dir / "a.vmt"),
                            [&](const RecordView& r) { heard.push_back(r.header.type); });
  for (const auto& r : test::one_of_each()) recorder.add(r);
  recorder.flush();
  EXPECT_EQ(recorder.records(), heard.size());
  EXPECT_FALSE(recorder.take_error());
  ASSERT_TRUE(recorder.writer()->close());
  EXPECT_EQ(test::all_records(*open(dir / "a.vmt")).size(), heard.size());

  record::Recorder nothing(nullptr, {});
  nothing.add(numbered(1));
  nothing.flush();
  EXPECT_FALSE(nothing.take_error());
}

TEST(TraceRecorder, TellsAFullDiskOnce) {
  VMWHY_NEEDS(mount);
  const test::TempDir dir;
  const test::Mount mount("none", dir.path(), "tmpfs", "size=64k");
  record::Recorder recorder(create(mount / "a.vmt"), {});
  test::fill_up(mount.path());
  std::mt19937_64 random(1);
  for (std::uint32_t i = 0; i < 1000; ++i)
    recorder.add(make_record(i, 1, test::SyntheticExit{i, i, random(), random(), random()}));
  recorder.writer()->sync(60s);
  const auto error = recorder.take_error();
  ASSERT_TRUE(error);
  EXPECT_NE(error->find("No space left on device"), std::string::npos);
  EXPECT_FALSE(recorder.take_error());
}

}  // namespace
}  // namespace vmwhy::trace
