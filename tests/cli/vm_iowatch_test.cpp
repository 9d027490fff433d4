// SPDX-License-Identifier: BSD-2-Clause
#include "tools/vm-iowatch/vm_iowatch.hpp"

#include <gmock/gmock.h>

#include <sstream>

#include "tests/support/child_process.hpp"
#include "tests/support/temp_dir.hpp"
#include "tools/vm-iowatch/events.hpp"
#include "tools/vm-iowatch/output.hpp"
#include "tools/vm-iowatch/table.hpp"

namespace vmwhy::test {
namespace {

using ::testing::HasSubstr;

Output run(std::vector<std::string> args) {
  args.insert(args.begin(), binary("vm-iowatch"));
  return run_program(args);
}

TEST(VmIowatch, RefusesWhatContradictsItself) {
  for (const std::vector<std::string>& args : {std::vector<std::string>{"-a", "-p", "1"},
                                               {"-p", "x"},
                                               {"--hang", "0"},
                                               {"-i", "0"},
                                               {"--map", "-o", "x"},
                                               {"--no-bpf", "--syscall-probes"},
                                               {"-s", ""},
                                               {"--nosuch"}}) {
    const Output result = run(args);
    EXPECT_EQ(result.status.code, 2) << args[0] << result.err;
    EXPECT_TRUE(result.out.empty());
  }
}

TEST(VmIowatch, NamesWhatIsNotThere) {
  EXPECT_EQ(run({"-p", "1"}).status.code, 3);
  const Output name = run({"-n", "no-such-vm-anywhere"});
  EXPECT_EQ(name.status.code, 3);
  EXPECT_THAT(name.err, HasSubstr("no VM 'no-such-vm-anywhere'"));
  const Output socket = run({"-s", "/nonexistent/qmp.sock"});
  EXPECT_EQ(socket.status.code, 3);
  EXPECT_THAT(socket.err, HasSubstr("/nonexistent/qmp.sock"));
}

TEST(VmIowatch, ChecksWhatThisHostOffers) {
  const Output result = run({"--check"});
  EXPECT_TRUE(result.status.code == 0 || result.status.code == 3) << result.err;
  EXPECT_THAT(result.out, HasSubstr("bpf"));
}

TEST(VmIowatch, QuantilesLieWithinTheirBucketAndBelowTheMaximum) {
  io_ledger_cell cell{};
  EXPECT_FALSE(vm_iowatch::quantile(cell, 0.5));
  cell.log2[5] = 99;  // [16384, 32768) ns
  cell.log2[15] = 1;  // [16.8, 33.6) ms
  cell.max_ns = 20'000'000;
  const auto p50 = vm_iowatch::quantile(cell, 0.5);
  ASSERT_TRUE(p50);
  EXPECT_GE(*p50, 16384u);
  EXPECT_LT(*p50, 32768u);
  EXPECT_EQ(vm_iowatch::quantile(cell, 1.0), 20'000'000u);
}

TEST(VmIowatch, PrintsOnlyWhatWasSeenAndEscapesNames) {
  vm_iowatch::Group group{"node \x1b[31mevil",
                          "web1",
                          "d0",
                          "syscall",
                          "",
                          "/x",
                          vm_iowatch::InFlight{2, 1'500'000'000, true},
                          {}};
  vm_iowatch::Line line{"web1", "d0", "syscall", "", "/x", "write", "probes"};
  line.count = 10;
  line.bytes = 10 << 20;
  line.p50_ns = 120'000;
  group.lines = {line, {"web1", "d0", "syscall", "", "/x", "read", "probes"}};
  std::ostringstream text, json;
  vm_iowatch::print_table(text, {group}, "now", 1'000'000'000, false);
  EXPECT_THAT(text.str(), HasSubstr("2 in flight, the oldest for 1.5 s"));
  EXPECT_THAT(text.str(), HasSubstr("120 µs"));
  EXPECT_THAT(text.str(), ::testing::Not(HasSubstr("read")));
  EXPECT_EQ(text.str().find('\x1b'), std::string::npos);
  const auto table_of = [](std::vector<vm_iowatch::Group> groups) {
    std::ostringstream out;
    vm_iowatch::print_table(out, groups, "now", 1'000'000'000, false);
    return out.str();
  };
  vm_iowatch::Group idle, disk;
  idle.vm = "web1";
  EXPECT_THAT(table_of({idle, disk}), HasSubstr("  nothing was asked of the storage"));
  EXPECT_THAT(table_of({disk}),
              HasSubstr("  nothing was asked of the disks; the VM's own requests are not seen"));
  EXPECT_THAT(table_of({}), HasSubstr("  the VM's own requests are not seen"));
  vm_iowatch::print_stats_json(json, {group}, 5, 1'000'000'000);
  EXPECT_THAT(json.str(), HasSubstr("\"schema\":\"vmwhy.io/1\",\"kind\":\"stats\""));
  EXPECT_THAT(json.str(), HasSubstr("\"in_flight\":2"));
}

}  // namespace
}  // namespace vmwhy::test
