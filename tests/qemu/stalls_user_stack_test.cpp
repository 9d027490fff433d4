// SPDX-License-Identifier: BSD-2-Clause
// What threads of a real QEMU sleep in, by its own functions; and who holds the lock that the others wait
// for.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>

#include "core/unique_fd.hpp"
#include "stalls_run.hpp"
#include "sym/executable.hpp"
#include "tests/support/capability.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

namespace json = boost::json;

class StallsUserStack : public ::testing::Test {
 protected:
  void SetUp() override {
    VMWHY_NEEDS(qemu);
    VMWHY_NEEDS(bpf);
    VMWHY_NEEDS(qemu_symbols);
  }
};

IncidentJson main_loop_blocked(const std::vector<IncidentJson>& incidents) {
  for (const IncidentJson& incident : incidents)
    if (text_of(incident, "cause") == "qemu-main-loop-blocked") return incident;
  std::string all;
  for (const IncidentJson& incident : incidents) all += json::serialize(incident) + "\n";
  ADD_FAILURE() << "no qemu-main-loop-blocked among:\n" << all;
  return {};
}

/// The monitor's command that opens a pipe which nobody reads: the main loop stands, with the big lock.
class PipeThatBlocks {
 public:
  PipeThatBlocks(const TempDir& dir, QemuProcess& vm) : path_(dir / "fifo") {
    EXPECT_EQ(::mkfifo(path_.c_str(), 0600), 0);
    vm.qmp().send("pmemsave", {{"val", 0}, {"size", 4096}, {"filename", path_}});
  }
  void let_go() { reader_ = UniqueFd(::open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)); }

 private:
  std::string path_;
  UniqueFd reader_;
};

TEST_F(StallsUserStack, MainLoopIsBlockedInItsOwnFunctions) {
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  StallsRun run(dir, vm, {"--min-latency", "20ms", "--top", "1000"}, false);
  PipeThatBlocks pipe(dir, vm);
  EXPECT_TRUE(run.process().wait_line("the main thread was blocked")) << run.process().out();
  pipe.let_go();
  EXPECT_TRUE(run.process().wait_line("; it is over")) << run.process().out();
  run.process().signal(SIGINT);
  ASSERT_TRUE(run.process().wait());
  EXPECT_NE(run.process().out().find("in QEMU: "), std::string::npos) << run.process().out();
  EXPECT_NE(run.process().out().find(" < qmp_pmemsave < "), std::string::npos) << run.process().out();

  const IncidentJson stall = main_loop_blocked(vm_why({run.trace()}));
  ASSERT_FALSE(stall.empty());
  EXPECT_TRUE(has_evidence(stall, "sched", "qmp_pmemsave < ")) << json::serialize(stall);
  EXPECT_TRUE(has_evidence(stall, "sched", "main_loop_wait")) << json::serialize(stall);
}

TEST_F(StallsUserStack, FramesCanBeNamedElsewhere) {
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "idle.bin"});
  StallsRun run(dir, vm, {"--min-latency", "20ms", "--top", "1000"});
  PipeThatBlocks pipe(dir, vm);
  // A document comes at the end only: the pipe is read when the main thread sleeps there.
  ASSERT_TRUE(wait_until([&] {
    return read_file("/proc/" + std::to_string(vm.pid()) + "/wchan").find("wait_for_partner") == 0;
  }));
  ASSERT_TRUE(wait_until([&] {
    return run_program({binary("vm-trace"), "cat", "--type", "thread_stall", run.trace()})
               .out.find("qmp_pmemsave") != std::string::npos;
  }));
  pipe.let_go();
  run.process().signal(SIGINT);
  const json::object document = run.finish_by_itself();
  std::string build_id, address;
  for (const json::value& stall : document.at("stalls").as_array())
    if (const json::value* stack = stall.as_object().if_contains("user_stack"))
      for (const json::value& frame : stack->as_array())
        if (frame.at("name").as_string().starts_with("qmp_pmemsave+")) {
          build_id = frame.at("build_id").as_string();
          address = frame.at("address").as_string();
        }
  const auto executable = sym::Executable::open(program_path("qemu-system-x86_64"));
  ASSERT_TRUE(executable);
  EXPECT_EQ(build_id, (*executable)->build_id());
  EXPECT_NE(address, "");

  std::filesystem::create_directory(dir.path() / "debug");
  std::filesystem::create_symlink(program_path("qemu-system-x86_64"), dir.path() / "debug" / "any-name");
  const auto named = run_program({binary("vm-why"), "--debug-dir", dir / "debug", run.trace()});
  EXPECT_EQ(named.status.code, 0) << named.err;
  EXPECT_NE(named.out.find("qmp_pmemsave < "), std::string::npos) << named.out;
}

/// A program without symbols in the place of a QEMU, and apart from it a file that has them.
class StrippedProgram {
 public:
  explicit StrippedProgram(const TempDir& dir)
      : program_(dir / "qemu-system-x86_64"), debug_(dir / "symbols") {
    std::ofstream(dir / "program.c") << R"(
        #include <unistd.h>
        __attribute__((noinline)) int wait_for_the_disk(void) {
          char byte;
          int n = read(0, &byte, 1);
          __asm__ volatile("");
          return n;
        }
        __attribute__((noinline)) int serve_requests(void) {
          int n = wait_for_the_disk();
          __asm__ volatile("");
          return n;
        }
        int main(void) {
          while (serve_requests() == 1) {
          }
          return 0;
        })";
    std::filesystem::create_directory(debug_);
    run({"gcc", "-O1", "-g", "-Wl,--build-id", "-o", dir / "whole", dir / "program.c"});
    run({"objcopy", "--only-keep-debug", dir / "whole", debug_ + "/any-name.debug"});
    run({"objcopy", "--strip-all", dir / "whole", program_});
  }
  const std::string& program() const { return program_; }
  const std::string& debug_folder() const { return debug_; }

 private:
  static void run(const std::vector<std::string>& command) {
    const auto ran = run_program(command);
    EXPECT_EQ(ran.status.code, 0) << ran.err;
  }
  std::string program_, debug_;
};

TEST(StallsStripped, NamesComeFromADebugFileAfterwards) {
  VMWHY_NEEDS(bpf);
  VMWHY_NEEDS(compiler);
  const TempDir dir;
  const StrippedProgram stripped(dir);
  ChildProcess program({.args = {stripped.program()}, .stdin_pipe = true});
  const std::string trace = dir / "stalls.vmt";
  ChildProcess run({binary("kvm-stalls"), "-p", std::to_string(program.pid()), "-o", trace});
  ASSERT_TRUE(run.wait_error_line("watching")) << run.err();
  program.write("x");  // It reads once more: that sleep begins while it is watched.
  const auto named_by = [&](const std::vector<std::string>& options) {
    std::vector<std::string> command{binary("vm-why"), trace};
    command.insert(command.end(), options.begin(), options.end());
    return run_program(command).out;
  };
  // By its address in the program as it is …
  ASSERT_TRUE(wait_until([&] { return named_by({}).find("< qemu-system-x86_64+0x") != std::string::npos; }))
      << named_by({}) << run.out();
  run.signal(SIGINT);
  ASSERT_TRUE(run.wait());
  EXPECT_EQ(named_by({}).find("wait_for_the_disk"), std::string::npos) << named_by({});
  // … and by name from the file that has its symbols.
  const std::string named = named_by({"--debug-dir", stripped.debug_folder()});
  EXPECT_NE(named.find("wait_for_the_disk < serve_requests"), std::string::npos) << named;
}

}  // namespace
}  // namespace vmwhy::test
