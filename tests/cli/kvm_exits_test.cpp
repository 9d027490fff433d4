// SPDX-License-Identifier: BSD-2-Clause
#include <gmock/gmock.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <sstream>

#include "tests/support/capability.hpp"
#include "tools/kvm-exits/kvm_exits.hpp"
#include "tools/kvm-exits/output.hpp"
#include "tools/kvm-exits/targets.hpp"

namespace vmwhy::kvm_exits {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

struct Outcome {
  int code;
  std::string out, err;
  std::optional<Options> options;
};

Outcome parse(const std::vector<std::string>& words) {
  std::vector<const char*> argv{"kvm-exits"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  std::ostringstream out, err;
  Parsed parsed = parse_options(static_cast<int>(argv.size()), argv.data(), out, err);
  return {parsed.exit_code, out.str(), err.str(), std::move(parsed.options)};
}

Outcome call(const std::vector<std::string>& words) {
  Outcome parsed = parse(words);
  if (!parsed.options) return parsed;
  std::ostringstream out, err;
  const int code = run(*parsed.options, out, err);
  return {code, out.str(), err.str(), std::nullopt};
}

// A vCPU's row as the probe leaves it.
class Row {
 public:
  Row(std::uint32_t pid, std::uint32_t tid, std::int32_t vcpu) {
    row_.pid_tgid = std::uint64_t{pid} << 32 | tid;
    row_.vcpu_id = vcpu;
  }
  Row& add(kvm_exits_kind kind, std::uint64_t code, std::vector<std::uint64_t> durations_ns,
           std::uint32_t write = 0) {
    kvm_exits_cell& cell = row_.cells[row_.cells_used++];
    cell.kind = static_cast<std::uint32_t>(kind);
    cell.code = code;
    cell.detail = write;
    for (const std::uint64_t ns : durations_ns) {
      ++cell.count;
      ++cell.timed;
      cell.total_ns += ns;
      cell.max_ns = std::max<std::uint64_t>(cell.max_ns, ns);
      int bucket = 0;
      while (ns >> (bucket + 1)) ++bucket;
      ++cell.log2_ns[bucket];
    }
    return *this;
  }
  kvm_exits_cell& last() { return row_.cells[row_.cells_used - 1]; }
  operator const kvm_exits_vcpu&() const { return row_; }

 private:
  kvm_exits_vcpu row_{};
};

std::vector<Vm> vms(const std::vector<kvm_exits_vcpu>& now, const std::vector<kvm_exits_vcpu>& before = {},
                    const Options& options = {}) {
  return make_vms(now, before, {{42, {"web1", {{44, 1}}}}}, kvm::Isa::vmx, options);
}

TEST(KvmExitsOptions, TakesListsAndRefusesWhatItDoesNotKnow) {
  const Outcome good =
      parse({"-p", "1,2", "-p", "3", "--vcpu", "0,4", "--event", "mmio,pio", "-i", "500ms", "-k", "max"});
  ASSERT_TRUE(good.options) << good.err;
  EXPECT_THAT(good.options->pids, ElementsAre(1, 2, 3));
  EXPECT_THAT(good.options->vcpus, ElementsAre(0, 4));
  EXPECT_FALSE(good.options->exits);
  EXPECT_TRUE(good.options->mmio);
  EXPECT_EQ(good.options->interval.count(), 500'000'000);
  for (const std::vector<std::string>& bad : {std::vector<std::string>{"-p", "x"},
                                              {"-p", "-1"},
                                              {"--event", "hypercall"},
                                              {"-k", "size"},
                                              {"--probe", "kprobe"},
                                              {"-a", "-p", "1"},
                                              {"--json", "--csv"},
                                              {"-b", "0"},
                                              {"--event", "pio", "-o", "x.vmt"},
                                              {"-d", "soon"},
                                              {"--vcpu", "1-3"}}) {
    const Outcome outcome = parse(bad);
    EXPECT_EQ(outcome.code, cli::kUsage) << bad.back();
    EXPECT_THAT(outcome.err, AllOf(HasSubstr("kvm-exits: "), Not(HasSubstr("\n\n")))) << bad.back();
  }
}

TEST(KvmExitsOptions, EndsHelpWithExamples) {
  EXPECT_THAT(parse({"--help"}).out, HasSubstr("Examples:"));
  EXPECT_THAT(parse({"--version"}).out, HasSubstr("kvm-exits"));
}

TEST(KvmExitsModel, SubtractsWhatCameBeforeTheWindow) {
  Row before(42, 43, 0), now(42, 43, 0);
  before.add(KVM_EXITS_KIND_KVM, 48, {1000, 3'000'000});
  now.add(KVM_EXITS_KIND_KVM, 48, {1000, 3'000'000, 500, 600}).add(KVM_EXITS_KIND_KVM, 10, {7});
  const std::vector<Vm> made = vms({now}, {before});
  ASSERT_EQ(made.size(), 1u);
  EXPECT_EQ(made[0].name, "web1");
  ASSERT_EQ(made[0].vcpus[0].exits.size(), 2u);
  const Exit& violation = made[0].vcpus[0].exits[0];
  EXPECT_EQ(violation.reason, "EPT_VIOLATION");
  EXPECT_EQ(violation.count, 2u);
  EXPECT_EQ(violation.total_ns, 1100u);
  EXPECT_EQ(violation.max_ns, 1024u) << "the greatest lies before the window: known to its bucket";
}

TEST(KvmExitsModel, GivesPercentilesWithinTheirBucketAndBelowTheMaximum) {
  Row row(42, 43, 0);
  std::vector<std::uint64_t> durations(99, 1500);
  durations.push_back(1'000'000);
  row.add(KVM_EXITS_KIND_KVM, 30, durations);
  const Exit exit = vms({row})[0].vcpus[0].exits[0];
  EXPECT_GE(exit.percentile_ns(0.5), 1024u);
  EXPECT_LE(exit.percentile_ns(0.5), 2048u);
  EXPECT_LE(exit.percentile_ns(0.99), 2048u);
  EXPECT_LE(exit.percentile_ns(1.0), 1'000'000u);
  EXPECT_GE(exit.percentile_ns(1.0), 524'288u);
  EXPECT_EQ(Exit{}.percentile_ns(0.5), 0u);
}

TEST(KvmExitsModel, KnowsVcpusByTheirThreadsAndKeepsOnlyThoseAskedFor) {
  Row known(42, 44, -1), other(42, 45, 5);
  known.add(KVM_EXITS_KIND_USERSPACE, 2, {10});
  other.add(KVM_EXITS_KIND_USERSPACE, 2, {10});
  Options options;
  options.vcpus = {1};
  const std::vector<Vm> made = vms({known, other}, {}, options);
  ASSERT_EQ(made[0].vcpus.size(), 1u);
  EXPECT_EQ(made[0].vcpus[0].tid, 44u);
  EXPECT_EQ(made[0].vcpus[0].id, 1);
}

TEST(KvmExitsModel, AddsUpVcpusAndKeepsHaltsApart) {
  Row a(42, 43, 0), b(42, 44, 1);
  a.add(KVM_EXITS_KIND_KVM, 12, {900'000'000}).add(KVM_EXITS_KIND_KVM, 30, {50, 60});
  b.add(KVM_EXITS_KIND_KVM, 30, {70});
  const std::vector<Exit> sums = add_up(vms({a, b})[0], KVM_EXITS_KIND_KVM, Key::count);
  ASSERT_EQ(sums.size(), 2u);
  EXPECT_EQ(sums[0].reason, "IO_INSTRUCTION");
  EXPECT_EQ(sums[0].count, 3u);
  EXPECT_EQ(sums[0].max_ns, 70u);
  EXPECT_FALSE(sums[0].halt);
  EXPECT_TRUE(sums[1].halt);
}

TEST(KvmExitsModel, SaysWhichTracepointStayedSilent) {
  const bpf::ProbeStatus exit{"kvm_exit", "tp_btf", true, "", 0},
      user{"kvm_userspace_exit", "tp_btf", true, "", 7};
  EXPECT_THAT(silence_notes({exit, user}, kvm::Isa::pvm),
              ElementsAre(HasSubstr("kvm_exit is attached and did not fire")));
  EXPECT_THAT(silence_notes({{"kvm_exit", "tp_btf", true, "", 9}, user}, kvm::Isa::vmx), IsEmpty());
  EXPECT_THAT(silence_notes({{"kvm_exit", "tp_btf", true, "", 0}}, kvm::Isa::vmx),
              ElementsAre(HasSubstr("nothing fired")));
  EXPECT_THAT(silence_notes({{"kvm_mmio", "tp_btf", false, "No such file", 0}, user}, kvm::Isa::vmx),
              Contains(HasSubstr("kvm_mmio is not watched: No such file")));
}

Report sample_report() {
  Row a(42, 43, 0), b(42, 44, 1);
  a.add(KVM_EXITS_KIND_KVM, 30, {5'000, 6'000}).last().qemu_ns = 4'000;
  a.add(KVM_EXITS_KIND_KVM, 12, {700'000'000}).add(KVM_EXITS_KIND_USERSPACE, 2, {2'000, 2'000});
  a.add(KVM_EXITS_KIND_PIO, 0x3f8, {5'000, 6'000}, 1);
  b.add(KVM_EXITS_KIND_KVM, 1234, {1})
      .add(KVM_EXITS_KIND_USERSPACE, static_cast<std::uint64_t>(std::int64_t{-4}), {5});
  Report report;
  report.isa = kvm::Isa::vmx;
  report.window_ns = 1'000'000'000;
  report.vms = vms({a, b});
  report.probes = {{"kvm_exit", "tp_btf", true, "", 4}};
  report.losses.counters[KVM_EXITS_STAT_RING_FULL] = 3;
  report.losses.counters[KVM_EXITS_STAT_NOT_WATCHED] = 99;
  return report;
}

TEST(KvmExitsOutput, PrintsATableThatFitsATerminal) {
  std::ostringstream out;
  print_table(out, sample_report(), Key::time, false);
  std::istringstream lines(out.str());
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
  EXPECT_THAT(out.str(), AllOf(HasSubstr("web1 (pid 42)"), HasSubstr("IO_INSTRUCTION"),
                               HasSubstr("HLT (asleep)"), HasSubstr("0x3f8 write (COM1)"), HasSubstr("1234"),
                               HasSubstr("EINTR"), HasSubstr("lost: 3 (ring_full 3)")));
}

TEST(KvmExitsOutput, WritesTheDocumentOfItsSchema) {
  const boost::json::object document = to_json(sample_report());
  EXPECT_EQ(document.at("schema"), "vmwhy.exits/1");
  EXPECT_EQ(document.at("lost"), 3);
  EXPECT_EQ(document.at("window_ns"), 1'000'000'000);
  EXPECT_EQ(document.at("probes").at(0).at("hits"), 4);
  const boost::json::object& vm = document.at("vms").at(0).as_object();
  EXPECT_EQ(vm.at("pid"), 42);
  const boost::json::object& exit = vm.at("vcpus").at(0).at("exits").at(1).as_object();
  EXPECT_EQ(exit.at("kind"), "kvm");
  EXPECT_EQ(exit.at("reason"), "IO_INSTRUCTION");
  EXPECT_EQ(exit.at("code"), 30);
  EXPECT_EQ(exit.at("total_ns"), 11'000);
  EXPECT_EQ(exit.at("qemu_ns"), 4'000);
  EXPECT_EQ(exit.at("log2_ns").as_array().size(), 13u);
  EXPECT_EQ(vm.at("vcpus").at(1).at("exits").at(1).at("code"), -4);
}

TEST(KvmExitsOutput, WritesOneLineOfCsvForEachExit) {
  std::ostringstream out;
  print_csv_head(out);
  print_csv(out, sample_report(), 5);
  EXPECT_THAT(out.str(), HasSubstr("5,42,web1,0,43,pio,0x3f8 write,1016,2,2,11000,6000,"));
}

TEST(KvmExitsOutput, EscapesNamesThatAGuestsOwnerChose) {
  Report report = sample_report();
  report.vms[0].name = "a\x1b[31m,b\n";
  std::ostringstream out;
  print_table(out, report, Key::time, false);
  print_csv(out, report, 0);
  EXPECT_EQ(out.str().find('\x1b'), std::string::npos);
  EXPECT_THAT(out.str(), Not(HasSubstr(",b\n")));
}

TEST(KvmExitsRun, RefusesAProcessThatIsNoQemu) {
  VMWHY_NEEDS(bpf);
  VMWHY_NEEDS(kvm_events);
  const Outcome outcome = call({"-p", std::to_string(::getpid()), "-d", "1s"});
  EXPECT_EQ(outcome.code, cli::kEnvironment);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr(std::to_string(::getpid())), HasSubstr("QEMU")));
}

TEST(KvmExitsRun, NamesACommandThatIsNotThere) {
  VMWHY_NEEDS(bpf);
  VMWHY_NEEDS(kvm_events);
  const Outcome outcome = call({"--", "no-such-command-here"});
  EXPECT_EQ(outcome.code, cli::kFailed);
  EXPECT_EQ(outcome.err, "kvm-exits: cannot run 'no-such-command-here': No such file or directory\n");
}

TEST(KvmExitsRun, EndsWithTheCommandAndWritesADocument) {
  VMWHY_NEEDS(bpf);
  VMWHY_NEEDS(kvm_events);
  const Outcome outcome = call({"--json", "--", "true"});
  EXPECT_EQ(outcome.code, cli::kOk) << outcome.err;
  const auto document = boost::json::parse(outcome.out).as_object();
  EXPECT_EQ(document.at("schema"), "vmwhy.exits/1");
  EXPECT_EQ(document.at("probes").as_array().size(), static_cast<std::size_t>(KVM_EXITS_PROBES));
}

TEST(KvmExitsRun, ListsWhatThisHostOffers) {
  const Outcome outcome = call({"--check"});
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("capabilities"), HasSubstr("btf"), HasSubstr("kvm_exit")));
  EXPECT_TRUE(outcome.code == cli::kOk || outcome.code == cli::kEnvironment);
}

}  // namespace
}  // namespace vmwhy::kvm_exits
