// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What tests of kvm-stalls share: a run of it on one VM, and processes that are bound to a CPU.

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/types.h>

#include <boost/json.hpp>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/child_process.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/stalls_document.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace vmwhy::test {

/// Binds all threads of a process to one CPU.
inline void pin(pid_t pid, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  for (const auto& task : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task"))
    ::sched_setaffinity(std::stoi(task.path().filename()), sizeof set, &set);
}

/// The first CPU that this process may use.
inline int a_cpu() {
  cpu_set_t set;
  CPU_ZERO(&set);
  ::sched_getaffinity(0, sizeof set, &set);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &set)) return cpu;
  return 0;
}

/// The guest has begun to run its program.
inline bool guest_runs(const QemuProcess& vm) {
  return wait_until([&] { return vm.serial().find('G') != std::string::npos; });
}

/// A run of kvm-stalls on one VM.
class StallsRun {
 public:
  StallsRun(const TempDir& dir, const QemuProcess& vm, std::vector<std::string> options, bool as_json = true)
      : trace_(dir / "stalls.vmt"), child_(arguments(vm, std::move(options), trace_, as_json)) {
    EXPECT_TRUE(child_.wait_error_line("watching")) << child_.err();
  }
  ChildProcess& process() { return child_; }
  const std::string& trace() const { return trace_; }

  /// Waits for its end (-d, or the VM's, or a signal); its document.
  boost::json::object finish_by_itself() {
    const auto status = child_.wait();
    EXPECT_TRUE(status && status->code == 0) << child_.err();
    boost::json::error_code error;
    const boost::json::value document = boost::json::parse(child_.out(), error);
    EXPECT_FALSE(error) << child_.out() << child_.err();
    return document.is_object() ? document.as_object() : boost::json::object();
  }

 private:
  static std::vector<std::string> arguments(const QemuProcess& vm, std::vector<std::string> options,
                                            const std::string& trace, bool as_json) {
    std::vector<std::string> out{binary("kvm-stalls"), "-p", std::to_string(vm.pid()), "-o", trace};
    if (as_json) out.emplace_back("--json");
    out.insert(out.end(), options.begin(), options.end());
    return out;
  }
  std::string trace_;
  ChildProcess child_;
};

}  // namespace vmwhy::test
