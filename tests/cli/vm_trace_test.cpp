// SPDX-License-Identifier: BSD-2-Clause
// vm-trace, by its run() function and, for what only a process shows, by the binary.
#include "tools/vm-trace/vm_trace.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <sstream>
#include <thread>

#include "../support/child_process.hpp"
#include "../support/temp_dir.hpp"
#include "../support/trace_samples.hpp"
#include "cli/cli.hpp"
#include "kvm/reasons.hpp"
#include "trace/schema.hpp"
#include "trace/writer.hpp"

namespace vmwhy::vm_trace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using trace::make_record;

struct Ran {
  int code;
  std::string out, err;
};

Ran vm_trace(std::vector<std::string> words, Options options = {}) {
  options.words = std::move(words);
  std::ostringstream out, err;
  const int code = run(options, out, err);
  return {code, out.str(), err.str()};
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

// A short recording: clocks, a VM, a pause.
std::vector<trace::OwnedRecord> recording() {
  constexpr std::uint64_t kStart = 5'000'000'000;
  return {
      make_record(kStart, 0, trace::ClockSnapshot{kStart, kStart, 1'795'392'800'000'000'000, 150, 0}),
      make_record(kStart + 1'000, 0, trace::Watch{1, 0}),
      make_record(kStart + 2'000, 1, trace::VmSeen{4242, 0, 77}, R"({"name":"web1","pid":4242})"),
      make_record(kStart + 1'500'000'000, 1, trace::QmpMessage{.wall_us = 1'795'392'801'499'000, .kind = 2},
                  trace::join_text({"", R"({"event":"STOP"})"})),
      make_record(kStart + 1'600'000'000, 1, trace::ProcessState{.pid = 4242, .state = 'S'}, "qemu\x1b[31m"),
      make_record(kStart + 2'000'000'000, 0, trace::Watch{2, 0}, "interrupted")};
}

class VmTrace : public ::testing::Test {
 protected:
  VmTrace() { test::write_trace(path_, recording()); }

  std::string damaged_copy() {
    std::string bytes = test::read_file(path_);
    bytes.resize(bytes.size() - 30);
    return dir_.write("damaged.vmt", bytes);
  }

  test::TempDir dir_;
  std::string path_ = dir_ / "a.vmt";
};

TEST_F(VmTrace, CatNamesExitReasonsByTheProcessorTheyComeFrom) {
  trace::KvmExit intel{.code = 30, .user_code = 2, .vcpu = 0, .isa = 1};
  trace::KvmExit amd{.code = 0x7b, .user_code = kvm::kNotToUserspace, .vcpu = 1, .isa = 2};
  trace::KvmFailure failure{.last_code = 0x80000021, .user_code = 9, .isa = 1};
  const std::string path = dir_ / "exits.vmt";
  test::write_trace(path,
                    {make_record(1, 1, intel), make_record(2, 1, amd), make_record(3, 1, failure, "x")});
  const auto all = lines(vm_trace({"cat", path}).out);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_THAT(all[0], HasSubstr(R"( reason="IO_INSTRUCTION" user_reason="KVM_EXIT_IO")"));
  EXPECT_THAT(all[1], AllOf(HasSubstr(R"( reason="io")"), Not(HasSubstr("user_reason"))));
  EXPECT_THAT(all[2],
              HasSubstr(R"( last_reason="INVALID_STATE FAILED_VMENTRY" user_reason="KVM_EXIT_FAIL_ENTRY")"));

  Options json;
  json.json = true;
  const auto document = boost::json::parse(lines(vm_trace({"cat", path}, json).out)[0]).as_object();
  EXPECT_EQ(document.at("reason"), "IO_INSTRUCTION");
  EXPECT_EQ(document.at("user_reason"), "KVM_EXIT_IO");
}

TEST_F(VmTrace, CatPrintsALinePerRecordInOrder) {
  const Ran ran = vm_trace({"cat", path_});
  EXPECT_EQ(ran.code, cli::kOk);
  EXPECT_EQ(ran.err, "");
  const auto all = lines(ran.out);
  ASSERT_EQ(all.size(), 6u);
  EXPECT_EQ(all[1], "2026-11-23T00:13:20.000001Z host watch event=begin");
  EXPECT_EQ(all[2],
            "2026-11-23T00:13:20.000002Z vm1 vm_seen pid=4242 start_ns=77 "
            "process=\"{\"name\":\"web1\",\"pid\":4242}\"");
  EXPECT_THAT(all[3], AllOf(HasSubstr("kind=event"), HasSubstr("message=\"{\"event\":\"STOP\"}\"")));
  EXPECT_THAT(all[4], AllOf(HasSubstr("state=S"), HasSubstr("qemu\\x1b[31m")));
  EXPECT_THAT(ran.out, Not(HasSubstr("\x1b")));
}

TEST_F(VmTrace, CatJsonIsOneObjectPerLine) {
  const Ran ran = vm_trace({"cat", path_}, {.json = true});
  EXPECT_EQ(ran.code, cli::kOk);
  const auto all = lines(ran.out);
  ASSERT_EQ(all.size(), 6u);
  const auto stop = boost::json::parse(all[3]).as_object();
  EXPECT_EQ(stop.at("type"), "qmp_message");
  EXPECT_EQ(stop.at("vm").to_number<int>(), 1);
  EXPECT_EQ(stop.at("time_ns").to_number<std::uint64_t>(), 6'500'000'000u);
  EXPECT_EQ(stop.at("time"), "2026-11-23T00:13:21.500000Z");
  EXPECT_EQ(stop.at("wall_us").to_number<std::int64_t>(), 1'795'392'801'499'000);
  EXPECT_EQ(stop.at("text").at("message"), R"({"event":"STOP"})");
  EXPECT_EQ(boost::json::parse(all[4]).at("text").at("comm"), "qemu\x1b[31m") << "escaped as JSON, not lost";
}

TEST_F(VmTrace, CatShowsEveryTypeOfTheSchema) {
  test::write_trace(path_, test::one_of_each());
  for (const bool json : {false, true}) {
    const Ran ran = vm_trace({"cat", path_}, {.json = json});
    EXPECT_EQ(ran.code, cli::kOk);
    const auto all = lines(ran.out);
    ASSERT_EQ(all.size(), trace::schema().size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      const auto& info = trace::schema()[i];
      EXPECT_THAT(all[i], HasSubstr(std::string(info.name)));
      for (const auto& field : info.fields) {
        if (field.name == "reserved") continue;
        EXPECT_THAT(all[i], HasSubstr(std::string(field.name)));
      }
      if (!json) continue;
      EXPECT_NO_THROW(boost::json::parse(all[i])) << all[i];
    }
  }
}

TEST_F(VmTrace, CatShowsUnknownTypesLongerStructsAndBadTextRaw) {
  auto unknown = make_record(1, 1, trace::Watch{0x01020304, 0}, "\xff\u009b");
  unknown.header.type = 300;
  auto longer = make_record(2, 1, trace::Watch{9, 0});
  longer.fixed += "\x01\x02";
  test::write_trace(path_, {unknown, longer});
  const auto text = lines(vm_trace({"cat", path_}).out);
  EXPECT_EQ(text[0], "0.000000001 vm1 type 300 +0403020100000000 text=\"\\xff\\u009b\"");
  EXPECT_EQ(text[1], "0.000000002 vm1 watch event=9 +0102");
  const auto json = lines(vm_trace({"cat", path_}, {.json = true}).out);
  EXPECT_EQ(json[0], R"({"time_ns":1,"time":null,"type":300,"vm":1,"unknown_hex":"0403020100000000",)"
                     R"("text":{"text":"\ufffd\u009b"}})");
}

TEST_F(VmTrace, CatFiltersByTypeAndVm) {
  EXPECT_EQ(lines(vm_trace({"cat", path_}, {.types = {"watch"}}).out).size(), 2u);
  EXPECT_EQ(lines(vm_trace({"cat", path_}, {.types = {"4", "vm_seen"}}).out).size(), 3u);
  EXPECT_EQ(lines(vm_trace({"cat", path_}, {.vm = "1"}).out).size(), 3u);
  EXPECT_EQ(lines(vm_trace({"cat", path_}, {.types = {"watch"}, .vm = "1"}).out).size(), 0u);
}

TEST_F(VmTrace, InfoSaysWhatIsInIt) {
  const Ran ran = vm_trace({"info", path_});
  EXPECT_EQ(ran.code, cli::kOk);
  EXPECT_THAT(ran.out, AllOf(HasSubstr("format 1.0"), HasSubstr("vm 1       web1"), HasSubstr("6, 0 lost"),
                             HasSubstr("2  watch"), HasSubstr("intact"), HasSubstr("2026-11-23T00:13:20"),
                             HasSubstr("2 s")));
  const auto json = boost::json::parse(vm_trace({"info", path_}, {.json = true}).out).as_object();
  EXPECT_EQ(json.at("schema"), "vmwhy.trace-info/1");
  EXPECT_EQ(json.at("records").to_number<int>(), 6);
  EXPECT_EQ(json.at("records_by_type").at("watch").to_number<int>(), 2);
  EXPECT_EQ(json.at("vms").at(0).at("name"), "web1");
  EXPECT_TRUE(json.at("intact").as_bool());
}

TEST_F(VmTrace, VerifyTellsWholeFromDamagedFromUnended) {
  EXPECT_EQ(vm_trace({"verify", path_}).code, cli::kOk);
  const Ran damaged = vm_trace({"verify", damaged_copy()});
  EXPECT_EQ(damaged.code, cli::kFailed);
  EXPECT_THAT(damaged.out, AllOf(HasSubstr("1 damaged blocks"), HasSubstr("the last block is cut"),
                                 HasSubstr("vm-trace recover")));
  auto writer = trace::Writer::create(dir_ / "open.vmt", {});
  ASSERT_TRUE(writer);
  const Ran open = vm_trace({"verify", dir_ / "open.vmt"});
  EXPECT_EQ(open.code, cli::kFailed);
  EXPECT_THAT(open.out, AllOf(HasSubstr("not ended"), HasSubstr("0 damaged blocks")));
}

TEST_F(VmTrace, RecoverMakesAWholeFileOfADamagedOne) {
  const std::string damaged = damaged_copy();
  const Ran cat = vm_trace({"cat", damaged});
  EXPECT_EQ(cat.code, cli::kFailed);
  EXPECT_EQ(lines(cat.out).size(), 6u) << "what can be read is printed";
  EXPECT_THAT(cat.err, HasSubstr("vm-trace recover"));
  const Ran ran = vm_trace({"recover", damaged, dir_ / "mended.vmt"});
  EXPECT_EQ(ran.code, cli::kOk);
  EXPECT_THAT(ran.out, HasSubstr("6 records"));
  EXPECT_EQ(vm_trace({"verify", dir_ / "mended.vmt"}).code, cli::kOk);
  EXPECT_EQ(vm_trace({"cat", dir_ / "mended.vmt"}).out, cat.out);
}

TEST_F(VmTrace, WrongFilesGetOneLineWithTheRemedy) {
  std::string newer = test::read_file(path_);
  newer[8] = 2;
  const std::pair<std::string, std::string> cases[] = {
      {dir_ / "missing.vmt", "No such file or directory; check the name"},
      {dir_.write("empty.vmt", ""), "the file is empty; "},
      {dir_.write("text", "certainly no trace"), "it is not a trace; name a file that"},
      {dir_.write("newer.vmt", newer), "use a newer vmwhy"},
      {dir_.write("cut.vmt", newer.substr(0, 20)), "ends within its header; "},
      {dir_.path().string(), "it is a directory: name a trace file"}};
  for (const auto& [path, expected] : cases) {
    for (const std::string command : {"info", "cat", "verify"}) {
      const Ran ran = vm_trace({command, path});
      EXPECT_EQ(ran.code, cli::kFailed);
      EXPECT_EQ(ran.out, "");
      EXPECT_EQ(lines(ran.err).size(), 1u);
      EXPECT_THAT(ran.err, AllOf(HasSubstr(path), HasSubstr(expected)));
    }
    EXPECT_EQ(vm_trace({"recover", path, dir_ / "out.vmt"}).code, cli::kFailed);
  }
  EXPECT_FALSE(std::filesystem::exists(dir_ / "out.vmt"));
}

TEST_F(VmTrace, WrongUsageIsCodeTwo) {
  const auto usage = [](std::vector<std::string> words, Options options = {}) {
    const Ran ran = vm_trace(std::move(words), std::move(options));
    return ran.code == cli::kUsage && ran.out.empty() && lines(ran.err).size() == 1;
  };
  EXPECT_TRUE(usage({}));
  EXPECT_TRUE(usage({"explode", path_}));
  EXPECT_TRUE(usage({"cat"}));
  EXPECT_TRUE(usage({"cat", path_, path_}));
  EXPECT_TRUE(usage({"recover", path_}));
  EXPECT_TRUE(usage({"cat", path_}, {.types = {"no_such_type"}}));
  EXPECT_TRUE(usage({"cat", path_}, {.vm = "web1"}));
  EXPECT_TRUE(usage({"info", path_}, {.follow = true}));
}

TEST_F(VmTrace, CatSaysWhereRecordsWereLost) {
  std::filesystem::remove(path_);
  {
    auto writer = trace::Writer::create(path_, {});
    ASSERT_TRUE(writer);
    (*writer)->append(make_record(1, 0, trace::KernelLog{}, std::string(17u << 20, 'x')).view());
    (*writer)->append(make_record(2, 0, trace::Watch{1, 0}).view());
    ASSERT_TRUE((*writer)->close());
  }
  EXPECT_THAT(vm_trace({"cat", path_}).out, HasSubstr("-- the recorder lost 1 records here\n"));
  EXPECT_THAT(vm_trace({"cat", path_}, {.json = true}).out, HasSubstr("{\"type\":\"lost\",\"lost\":1}\n"));
}

TEST_F(VmTrace, FollowPrintsWhatComesUntilTheRecordingEnds) {
  std::filesystem::remove(path_);
  auto writer = trace::Writer::create(path_, {});
  ASSERT_TRUE(writer);
  test::ChildProcess cat({test::binary("vm-trace"), "cat", "--follow", path_});
  for (std::uint32_t i = 0; i < 3; ++i) {
    (*writer)->append(make_record(1'000 + i, 1, trace::VmEnd{100 + i, 1, 0, 0}).view());
    (*writer)->flush();
    EXPECT_TRUE(cat.wait_line("vm_end pid=" + std::to_string(100 + i)));
  }
  ASSERT_TRUE((*writer)->close());
  const auto status = cat.wait();
  ASSERT_TRUE(status);
  EXPECT_EQ(status->code, 0) << cat.err();
}

TEST_F(VmTrace, ABrokenPipeIsNoFailure) {
  test::write_trace(path_, test::synthetic_exits(50'000));
  const auto ran = test::run_program(
      {"bash", "-c", "set -o pipefail; '" + test::binary("vm-trace") + "' cat '" + path_ + "' | head -n 1"});
  EXPECT_EQ(ran.status.code, 0) << ran.err;
  EXPECT_EQ(lines(ran.out).size(), 1u);
  EXPECT_EQ(ran.err, "");
}

TEST_F(VmTrace, TheBinaryParsesItsOptions) {
  const auto help = test::run_program({test::binary("vm-trace"), "--help"});
  EXPECT_EQ(help.status.code, 0);
  EXPECT_THAT(help.out, HasSubstr("Examples:"));
  const auto json = test::run_program({test::binary("vm-trace"), "cat", "--json", "--type", "watch", path_});
  EXPECT_EQ(json.status.code, 0);
  EXPECT_EQ(lines(json.out).size(), 2u);
  EXPECT_EQ(test::run_program({test::binary("vm-trace"), "--no-such-option"}).status.code, 2);
  EXPECT_EQ(test::run_program({test::binary("vm-trace"), "verify", path_}).status.code, 0);
}

}  // namespace
}  // namespace vmwhy::vm_trace
