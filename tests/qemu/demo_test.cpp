// SPDX-License-Identifier: BSD-2-Clause
// scripts/demo, as `make demo` runs it.

#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/json/parse.hpp>
#include <filesystem>

#include "tests/support/capability.hpp"
#include "tests/support/child_process.hpp"
#include "tests/support/temp_dir.hpp"

namespace vmwhy::test {
namespace {

namespace fs = std::filesystem;

/// A build folder of the demo's own with the binaries and guests under test, for every user to read: the
/// checkout may lie in a folder that only its owner may enter.
void copy_build(const TempDir& dir) {
  fs::permissions(dir.path(), fs::perms(0755));
  fs::copy(fs::path(binary("x")).parent_path(), dir.path() / "bin");
  fs::copy(fs::path(guest("x")).parent_path(), dir.path() / "guests");
}

/// `cause`: what the cause's name begins with.
void run_demo(const TempDir& build, const TempDir& tmp, const std::string& cause,
              std::vector<std::string> before) {
  before.push_back("scripts/demo");
  ChildProcess demo(ChildProcess::Options{
      .args = std::move(before),
      .environment = {{"BUILD", build.path().string()}, {"TMPDIR", tmp.path().string()}}});
  const auto status = demo.wait(deadline_in(180s));
  ASSERT_TRUE(status) << "it hangs: " << demo.out() << demo.err();
  EXPECT_EQ(status->code, 0) << demo.out() << demo.err();
  EXPECT_NE(demo.out().find(cause), std::string::npos) << demo.out();
  EXPECT_NE(demo.out().find("No space left on device"), std::string::npos) << demo.out();
  EXPECT_TRUE(fs::is_empty(tmp.path())) << "it left something behind";

  const fs::path left = build.path() / "demo";
  EXPECT_NE(read_file(left / "report.txt").find("\x1b["), std::string::npos) << "the report has no colour";
  EXPECT_GT(fs::file_size(left / "trace.vmt"), 0U);
  const auto verdict = boost::json::parse(read_file(left / "verdict.json"));
  bool told = false;
  for (const auto& incident : verdict.at("incidents").as_array())
    told |= incident.at("cause").as_string().starts_with(cause);
  EXPECT_TRUE(told) << read_file(left / "verdict.json");
}

TEST(Demo, FullFileSystemIsExplainedAndNothingIsLeftBehind) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  const TempDir build, tmp;
  copy_build(build);
  run_demo(build, tmp, "storage-full", {});
}

TEST(Demo, WithoutRootTheSameIsShownByFaultInjection) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(unprivileged);
  const TempDir build, tmp;
  copy_build(build);
  ASSERT_EQ(::chown(build.path().c_str(), 65534, 65534), 0);
  ASSERT_EQ(::chown(tmp.path().c_str(), 65534, 65534), 0);
  run_demo(build, tmp, "storage-", {"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"});
}

}  // namespace
}  // namespace vmwhy::test
