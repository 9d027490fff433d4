// SPDX-License-Identifier: BSD-2-Clause
// What the loaders find out about a machine, and what they say where something is missing.

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "bpf/load/environment.hpp"
#include "bpf/load/kvm_exits.hpp"
#include "kvm/reasons.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/temp_dir.hpp"

namespace vmwhy::test {
namespace {

using ::testing::HasSubstr;

class FakeSys {
 public:
  FakeSys() { file("kernel/security/lockdown", "[none] integrity confidentiality\n"); }
  void file(const std::string& path, const std::string& text) {
    const std::filesystem::path full = std::filesystem::path(folder_.path()) / path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text;
  }
  bpf::EnvironmentOptions options() const { return {.sys = folder_.path(), .proc = "/proc"}; }

 private:
  TempDir folder_;
};

const bpf::Check* find(const bpf::Environment& env, std::string_view name) {
  for (const bpf::Check& check : env.checks)
    if (check.name == name) return &check;
  return nullptr;
}

TEST(BpfEnvironment, NamesAKernelWithoutBtf) {
  FakeSys sys;
  sys.file("module/kvm/x", "");
  sys.file("module/kvm_intel/x", "");
  const bpf::Environment env = bpf::look_around(sys.options());
  EXPECT_FALSE(env.btf);
  ASSERT_NE(find(env, "btf"), nullptr);
  EXPECT_EQ(find(env, "btf")->finding, bpf::Finding::missing);
  EXPECT_THAT(find(env, "btf")->remedy, HasSubstr("CONFIG_DEBUG_INFO_BTF"));
  EXPECT_TRUE(env.obstacle());
}

TEST(BpfEnvironment, NamesAMissingKvmAndItsRemedy) {
  FakeSys sys;
  const bpf::Environment env = bpf::look_around(sys.options());
  EXPECT_FALSE(env.kvm);
  EXPECT_THAT(find(env, "kvm")->remedy, HasSubstr("modprobe"));
}

TEST(BpfEnvironment, TellsTheFlavourByTheModuleThatIsLoaded) {
  for (const auto& [module, isa] :
       {std::pair{"kvm_intel", bpf::Isa::vmx}, {"kvm_amd", bpf::Isa::svm}, {"kvm_pvm", bpf::Isa::pvm}}) {
    FakeSys sys;
    sys.file("module/kvm/x", "");
    sys.file("module/" + std::string(module) + "/x", "");
    EXPECT_EQ(bpf::look_around(sys.options()).isa, isa) << module;
  }
}

TEST(BpfEnvironment, NamesALockdownThatForbidsReading) {
  FakeSys sys;
  sys.file("kernel/security/lockdown", "none integrity [confidentiality]\n");
  const bpf::Environment env = bpf::look_around(sys.options());
  EXPECT_TRUE(env.lockdown_confidentiality);
  EXPECT_EQ(find(env, "lockdown")->finding, bpf::Finding::missing);
}

TEST(BpfEnvironment, FallsBackToTheClassicTracepointWithoutBtfOfKvm) {
  FakeSys sys;
  sys.file("module/kvm/x", "");
  sys.file("module/kvm_amd/x", "");
  sys.file("kernel/tracing/events/kvm/kvm_exit/format",
           "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n"
           "\tfield:unsigned int exit_reason;\toffset:8;\tsize:4;\tsigned:0;\n");
  const bpf::Environment env = bpf::look_around(sys.options());
  EXPECT_EQ(env.classic_reason_offset, 8u);
  EXPECT_THAT(find(env, "kvm_exit")->detail, HasSubstr("classic"));
}

TEST(BpfEnvironment, FindsFieldsInFormatsAndSurvivesNonsense) {
  EXPECT_EQ(bpf::format_offset("field:u32 a;\toffset:12;\tsize:4;", "a"), 12u);
  for (const char* text : {"", "field:u32 a;", "field:u32 a;\toffset:", "field:u32 a;\toffset:x",
                           "field:u32 a;\toffset:99999999999;"})
    EXPECT_FALSE(bpf::format_offset(text, "a")) << text;
  EXPECT_FALSE(bpf::format_offset("field:u32 xa;\toffset:12;", "a"));
}

TEST(BpfEnvironment, TellsAnUnprivilegedUserWhichCapabilitiesAreMissing) {
  VMWHY_NEEDS(root);
  int pipe_fds[2];
  ASSERT_EQ(::pipe(pipe_fds), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(9);
    const auto loaded = bpf::KvmExits::load(bpf::look_around(), {});
    const std::string text = loaded ? "loaded" : to_string(loaded.error());
    const bool written = ::write(pipe_fds[1], text.data(), text.size()) >= 0;
    ::_exit(loaded || !written ? 1 : 0);
  }
  ::close(pipe_fds[1]);
  std::string text;
  char chunk[512];
  for (ssize_t n; (n = ::read(pipe_fds[0], chunk, sizeof(chunk))) > 0;)
    text.append(chunk, static_cast<std::size_t>(n));
  ::close(pipe_fds[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0) << text;
  EXPECT_THAT(text, HasSubstr("CAP_BPF and CAP_PERFMON"));
  EXPECT_THAT(text, HasSubstr("run as root"));
}

TEST(KvmExitsLoader, LoadsOnlyWhatWasAskedFor) {
  VMWHY_NEEDS(bpf);
  VMWHY_NEEDS(kvm_events);
  bpf::KvmExitsOptions options;
  options.exits = options.pio = options.mmio = false;
  auto probe = bpf::KvmExits::load(bpf::look_around(), options);
  ASSERT_TRUE(probe) << to_string(probe.error());
  std::vector<std::string> names;
  for (const bpf::ProbeStatus& status : (*probe)->probes()) names.push_back(status.name);
  EXPECT_THAT(names, ::testing::UnorderedElementsAre("kvm_userspace_exit", "kvm_fpu"));
  EXPECT_NE((*probe)->test_run("raw_kvm_exit", {0, 0}), 0)
      << "a program that was not asked for is not loaded";
}

TEST(KvmExitsLoader, AttachesToThisKernelAndSaysThatNothingFired) {
  VMWHY_NEEDS(bpf);
  VMWHY_NEEDS(kvm_events);
  auto probe = bpf::KvmExits::load(bpf::look_around(),
                                   {.all = false, .pids = {static_cast<std::uint32_t>(::getpid())}});
  ASSERT_TRUE(probe) << to_string(probe.error());
  const auto attached = (*probe)->attach();
  ASSERT_TRUE(attached) << to_string(attached.error());
  EXPECT_EQ((*probe)->probes().size(), static_cast<std::size_t>(KVM_EXITS_PROBES));
  for (const bpf::ProbeStatus& status : (*probe)->probes()) {
    EXPECT_TRUE(status.attached) << status.name << ": " << status.error;
    EXPECT_EQ(status.hits, 0u) << status.name;
  }
  (*probe)->detach();
}

TEST(KvmExitsLoader, HoldsThousandsOfVcpus) {
  VMWHY_NEEDS(bpf);
  VMWHY_NEEDS(kvm_events);
  auto probe = bpf::KvmExits::load(bpf::look_around(), {.max_vcpus = 4096});
  EXPECT_TRUE(probe) << to_string(probe.error());
}

// Every name that the running kernel prints for a code must be ours for that code.
TEST(KvmReasonTables, AgreeWithTheRunningKernel) {
  VMWHY_NEEDS(mount);
  VMWHY_NEEDS(kvm_events);
  TempDir folder;
  const Mount tracefs("tracefs", folder.path(), "tracefs");
  std::ifstream in(tracefs / "events/kvm/kvm_exit/format");
  const std::string format((std::istreambuf_iterator<char>(in)), {});
  ASSERT_FALSE(format.empty());
  std::size_t svm_begins = format.find(": __print_symbolic");
  ASSERT_NE(svm_begins, std::string::npos);
  int checked = 0;
  for (std::size_t at = format.find("__print_symbolic"); (at = format.find("{ ", at)) != std::string::npos;
       ++at) {
    const std::size_t comma = format.find(", \"", at), end = format.find("\" }", at);
    ASSERT_TRUE(comma != std::string::npos && end != std::string::npos);
    const std::string code_text = format.substr(at + 2, comma - at - 2),
                      name = format.substr(comma + 3, end - comma - 3);
    if (name == "FAILED_VMENTRY") break;
    // "0x040 + 14": the base of the exceptions and the vector.
    const std::size_t plus = code_text.find(" + ");
    const auto code =
        static_cast<std::uint32_t>(std::stoll(code_text, nullptr, 0) +
                                   (plus == std::string::npos ? 0 : std::stoll(code_text.substr(plus + 3))));
    EXPECT_EQ(kvm::exit_reason_name(at < svm_begins ? kvm::Isa::vmx : kvm::Isa::svm, code), name)
        << code_text;
    ++checked;
  }
  EXPECT_GT(checked, 100);
}

}  // namespace
}  // namespace vmwhy::test
