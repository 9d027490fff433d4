// SPDX-License-Identifier: BSD-2-Clause
// QEMU's own functions in executables that are not as a distribution installs them.

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "qemu/functions.hpp"
#include "qemu_calls_run.hpp"
#include "sym/executable.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/elf_edit.hpp"
#include "tests/support/qemu.hpp"

namespace vmwhy::test {
namespace {

std::string first_line(const char* command) {
  const Output output = run_program({"sh", "-c", command});
  return output.out.substr(0, output.out.find('\n'));
}

bool is_followed(std::string_view name) {
  const auto all = qemu::functions();
  return std::any_of(all.begin(), all.end(), [&](const auto& function) { return function.name == name; });
}

/// Runs some executable of QEMU: with a monitor for people, and one for programs that nobody holds.
class CopiedQemu {
 public:
  CopiedQemu(const TempDir& dir, const std::string& name, std::vector<std::string> command)
      : name_(name + std::to_string(::getpid())),
        hmp(dir, name + ".hmp"),
        gdb_(dir / (name + ".gdb")),
        child_(options(dir / (name + ".qmp"), std::move(command))) {
    // It greets when it is up.
    QmpProbe(dir / (name + ".qmp"));
  }

  const std::string& name() const { return name_; }
  std::string pid() const { return std::to_string(child_.pid()); }
  const std::string& gdb() const { return gdb_; }

 private:
  ChildProcess::Options options(const std::string& socket, std::vector<std::string> command) const {
    const std::string stop = ",server=on,wait=off";
    for (const std::string& argument :
         {std::string("-name"), name_, std::string("-accel"), std::string("tcg"), std::string("-display"),
          std::string("none"), std::string("-nodefaults"), std::string("-m"), std::string("32"),
          std::string("-L"), std::string("/usr/share/qemu"), std::string("-L"),
          std::string("/usr/share/seabios"), std::string("-monitor"), hmp.arguments()[1], std::string("-qmp"),
          "unix:" + socket + stop, std::string("-gdb"), "unix:" + gdb_ + stop})
      command.push_back(argument);
    return {.args = std::move(command),
            .environment = {{"QEMU_MODULE_DIR", first_line("dirname /usr/lib/*/qemu/accel-tcg-x86_64.so")}}};
  }

  std::string name_;

 public:
  HumanMonitor hmp;

 private:
  std::string gdb_;
  ChildProcess child_;
};

class QemuBinary : public ::testing::Test {
 protected:
  void SetUp() override {
    VMWHY_NEEDS(qemu);
    VMWHY_NEEDS(uprobes);
    installed_ = program_path("qemu-system-x86_64");
    ASSERT_TRUE(std::filesystem::copy_file(installed_, copy_));
  }
  TempDir dir_;
  std::string installed_, copy_ = dir_ / "qemu-system-x86_64";
};

TEST_F(QemuBinary, ThatWasReplacedIsFollowedAllTheSame) {
  CopiedQemu qemu(dir_, "replaced", {copy_});
  std::filesystem::remove(copy_);
  ASSERT_TRUE(std::filesystem::copy_file(first_line("command -v env"), copy_));
  Watcher watch(dir_, {"-p", qemu.pid()}, "watching " + qemu.name());
  ASSERT_TRUE(follows_calls(watch));
  qemu.hmp.type("stop");
  EXPECT_TRUE(is_verdict(watch.incident("pause"), "operator-stop", "proven"));
  watch.finish();
}

TEST_F(QemuBinary, InAMountNamespaceOfItsOwnIsFollowedAllTheSame) {
  VMWHY_NEEDS(mount);
  const std::string folder = dir_ / "inside";
  std::filesystem::create_directory(folder);
  CopiedQemu qemu(
      dir_, "inside",
      {"unshare", "--mount", "sh", "-c",
       R"(q="$0/qemu-system-x86_64"; mount -t tmpfs tmpfs "$0" && mv "$1" "$q" && shift && exec "$q" "$@")",
       folder, copy_});
  ASSERT_FALSE(std::filesystem::exists(folder + "/qemu-system-x86_64"));
  ASSERT_FALSE(std::filesystem::exists(copy_));
  Watcher watch(dir_, {"-p", qemu.pid()}, "watching " + qemu.name());
  ASSERT_TRUE(follows_calls(watch));
  qemu.hmp.type("stop");
  EXPECT_TRUE(is_verdict(watch.incident("pause"), "operator-stop", "proven"));
  watch.finish();
}

TEST_F(QemuBinary, InAChrootIsFollowedAllTheSame) {
  VMWHY_NEEDS(mount);
  const std::string folder = dir_ / "root";
  std::filesystem::create_directory(folder);
  CopiedQemu qemu(
      dir_, "chroot",
      {"unshare", "--mount", "sh", "-c",
       R"(mount --bind / "$0" && mount -t tmpfs tmpfs "$0/mnt" && mv "$1" "$0/mnt/qemu-system-x86_64" && shift && )"
       R"(exec chroot "$0" /mnt/qemu-system-x86_64 "$@")",
       folder, copy_});
  ASSERT_NE(std::filesystem::read_symlink("/proc/" + qemu.pid() + "/root"), "/");
  ASSERT_FALSE(std::filesystem::exists("/mnt/qemu-system-x86_64"));
  Watcher watch(dir_, {"-p", qemu.pid()}, "watching " + qemu.name());
  ASSERT_TRUE(follows_calls(watch));
  qemu.hmp.type("stop");
  EXPECT_TRUE(is_verdict(watch.incident("pause"), "operator-stop", "proven"));
  watch.finish();
}

TEST_F(QemuBinary, WithoutNamesIsNotFollowedAndNothingIsMadeOfThat) {
  ASSERT_GT(take_names(copy_, is_followed), 15u);
  CopiedQemu qemu(dir_, "nameless", {copy_}), other(dir_, "named", {installed_});
  Watcher watch(dir_, {"-p", qemu.pid(), "-p", other.pid()}, "watching " + other.name());
  ASSERT_TRUE(wait_in_trace(watch, "names none of the functions that are looked for"));
  ASSERT_TRUE(follows_calls(watch));
  qemu.hmp.type("stop");
  const auto incident = watch.incident("pause", qemu.name());
  EXPECT_TRUE(is_verdict(incident, "operator-stop", "likely"));
  EXPECT_FALSE(has_evidence(incident, "uprobe", ""));
  other.hmp.type("stop");
  EXPECT_TRUE(is_verdict(watch.incident("pause", other.name()), "operator-stop", "proven"));
  watch.finish();
}

TEST_F(QemuBinary, WithoutNamesIsFollowedByItsStaticProbes) {
  // What the assembler would write of runstate_set's event, were it at the function's beginning.
#if defined(__x86_64__)
  const std::string arguments = "-4@current_run_state(%rip) 8@$0 -4@%edi 8@$0";
#else
  const std::string arguments = "-4@0 8@0 -4@w0 8@0";
#endif
  const auto original = sym::Executable::open(installed_);
  ASSERT_TRUE(original);
  const auto* function = (*original)->find("runstate_set");
  ASSERT_NE(function, nullptr);
  add_static_probe(copy_, "runstate_set", function->address, arguments);
  ASSERT_GT(take_names(copy_, is_followed), 15u);
  CopiedQemu qemu(dir_, "marked", {copy_});
  Watcher watch(dir_, {"-p", qemu.pid()}, "watching " + qemu.name());
  ASSERT_TRUE(wait_in_trace(watch, "; by its static probes runstate_set; it has no vm_stop, "));
  ASSERT_TRUE(follows_calls(watch));
  qemu.hmp.type("stop");
  const auto incident = watch.incident("pause", qemu.name());
  EXPECT_TRUE(is_verdict(incident, "operator-stop", "proven"));
  EXPECT_TRUE(has_evidence(incident, "uprobe", "runstate_set(paused)"));
  watch.finish();
}

TEST_F(QemuBinary, ThatNamesNotAllOfThemIsNotJudgedByAnotherOnesNames) {
  ASSERT_EQ(take_names(copy_, [](std::string_view name) { return name == "hmp_stop"; }), 1u);
  CopiedQemu qemu(dir_, "some", {copy_}), other(dir_, "all", {installed_});
  Watcher watch(dir_, {"-p", qemu.pid(), "-p", other.pid()}, "watching " + other.name());
  ASSERT_TRUE(wait_in_trace(watch, "it has no hmp_stop are followed\""));
  ASSERT_TRUE(wait_in_trace(watch, "functions of " + installed_));
  const UniqueFd debugger = connect_to(qemu.gdb());
  EXPECT_FALSE(is_verdict(watch.incident("pause", qemu.name()), "debugger", "likely"));
  const UniqueFd another = connect_to(other.gdb());
  EXPECT_TRUE(is_verdict(watch.incident("pause", other.name()), "debugger", "likely"));
  watch.finish();
}

}  // namespace
}  // namespace vmwhy::test
