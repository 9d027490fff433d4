// SPDX-License-Identifier: BSD-2-Clause
// vm-iowatch on real VMs: the map, failures with their chain, hangs, tables, and a trace that vm-why judges.

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <filesystem>

#include "tests/support/capability.hpp"
#include "tests/support/fuse_disk.hpp"
#include "tests/support/loop_device.hpp"
#include "tests/support/mount.hpp"
#include "tests/support/qemu.hpp"
#include "watcher.hpp"

namespace vmwhy::test {
namespace {

namespace json = boost::json;

constexpr std::uint64_t kDiskBytes = 64 << 20;

std::vector<std::string> iowatch(const QemuProcess& vm, const std::vector<std::string>& more = {}) {
  std::vector<std::string> args{binary("vm-iowatch"), "-s", vm.monitor()};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

json::object line_of(const std::optional<std::string>& line) {
  if (!line) return {};
  boost::system::error_code error;
  const json::value value = json::parse(*line, error);
  return !error && value.is_object() ? value.get_object() : json::object();
}

/// "qemu>syscall>fs": the layers of an event's chain.
std::string layers(const json::object& event) {
  std::string out;
  const auto* chain = event.if_contains("chain");
  if (chain == nullptr || !chain->is_array()) return out;
  for (const auto& link : chain->get_array())
    out += (out.empty() ? "" : ">") + std::string(link.as_object().at("layer").as_string());
  return out;
}

void end_well(ChildProcess& child) {
  child.signal(SIGINT);
  const auto status = child.wait();
  EXPECT_TRUE(status && status->code == 0) << child.err();
}

TEST(IoWatch, MapGoesFromTheGuestDeviceToTheFileSystemUnderALoopDevice) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(loop);
  const TempDir dir;
  const LoopDevice loop(dir.sparse("backing", kDiskBytes));
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(loop.path(), "raw", "host_device")});
  const Output text = run_program(iowatch(vm, {"--map"}));
  ASSERT_EQ(text.status.code, 0) << text.err;
  for (const std::string& part :
       {std::string("guest device"), std::string("node disk0  raw"), "file " + loop.path(),
        "loop " + loop.name(), "file " + dir / "backing", std::string("fs ")})
    EXPECT_NE(text.out.find(part), std::string::npos) << part << " is not in\n" << text.out;
  const Output one = run_program(iowatch(vm, {"--map", "--json", "--node", "file0"}));
  ASSERT_EQ(one.status.code, 0) << one.err;
  const json::object map = line_of(one.out);
  EXPECT_EQ(map.at("schema"), "vmwhy.io/1");
  EXPECT_EQ(map.at("kind"), "map");
  EXPECT_EQ(map.at("tree").as_array().at(0).at("name"), "file0");
  const Output unknown = run_program(iowatch(vm, {"--map", "--node", "nosuch"}));
  EXPECT_EQ(unknown.status.code, 3);
  EXPECT_NE(unknown.err.find("nosuch"), std::string::npos) << unknown.err;
}

TEST(IoWatch, MapNamesADeletedImageAndABackingChain) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(qemu_img);
  const TempDir dir;
  const std::string base = dir / "base.qcow2", top = dir / "top.qcow2";
  ASSERT_EQ(run_program({"qemu-img", "create", "-q", "-f", "qcow2", base, "64M"}).status.code, 0);
  ASSERT_EQ(
      run_program({"qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top}).status.code,
      0);
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(top, "qcow2")});
  std::filesystem::remove(base);
  const Output text = run_program(iowatch(vm, {"--map"}));
  ASSERT_EQ(text.status.code, 0) << text.err;
  EXPECT_NE(text.out.find("backing"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("deleted: QEMU's descriptor keeps it"), std::string::npos) << text.out;
}

TEST(IoWatch, TellsAFailureWithItsWholeChainAndKeepsATraceThatVmWhyJudges) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(mount);
  VMWHY_NEEDS(bpf);
  const TempDir dir;
  const Mount small("tmpfs", dir.path() / "small", "tmpfs", "size=4m");
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(sparse_file(small / "disk.raw", kDiskBytes))});
  const std::string trace = dir / "io.vmt";
  ChildProcess child(iowatch(vm, {"--json", "--syscall-probes", "-i", "200ms", "-o", trace}));
  ASSERT_TRUE(child.wait_error_line("watching")) << child.err();
  vm.cont();
  const json::object call = line_of(child.wait_line("\"layer\":\"syscall\",\"path\""));
  const json::object error = line_of(child.wait_line("\"layer\":\"qemu\",\"path\""));
  ASSERT_TRUE(vm.wait_run_state("io-error"));
  ASSERT_FALSE(error.empty()) << child.out() << child.err();
  ASSERT_FALSE(call.empty()) << child.out() << child.err();
  EXPECT_EQ(error.at("kind"), "error");
  EXPECT_EQ(error.at("errno"), "ENOSPC");
  EXPECT_EQ(error.at("op"), "write");
  EXPECT_EQ(text_of(error, "path"), small / "disk.raw");
  EXPECT_EQ(layers(error), "qemu>syscall>fs");
  // A look at the file follows, for the trace.
  EXPECT_TRUE(child.wait_line("\"kind\":\"stats\"")) << child.err();
  EXPECT_TRUE(wait_until([&] {
    return run_program({binary("vm-trace"), "cat", trace}).out.find("collected") != std::string::npos;
  }));
  end_well(child);
  const auto incidents = vm_why({trace});
  const auto pause = std::find_if(incidents.begin(), incidents.end(), [](const IncidentJson& incident) {
    return text_of(incident, "run_state") == "io-error";
  });
  ASSERT_NE(pause, incidents.end());
  EXPECT_TRUE(is_verdict(*pause, "storage-full", "proven"));
}

TEST(IoWatch, CountsCallsOfANodeAndRequestsOfTheDiskBelow) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(loop);
  VMWHY_NEEDS(bpf);
  const TempDir dir;
  const LoopDevice loop(dir.sparse("backing", kDiskBytes));
  QemuProcess vm(dir,
                 {.boot = "writer.bin", .args = disk(loop.path(), "raw", "host_device", "cache.direct=on")});
  ChildProcess child(iowatch(vm, {"--json", "--syscall-probes", "-i", "200ms"}));
  ASSERT_TRUE(child.wait_error_line("watching")) << child.err();
  vm.cont();
  const auto stats = [&](const char* layer) {
    return line_of(child.wait_line([&](std::string_view line) {
      return line.find("\"kind\":\"stats\"") != line.npos && line.find(layer) != line.npos &&
             line.find("\"op\":\"write\"") != line.npos;
    }));
  };
  const json::object calls = stats("\"layer\":\"syscall\"");
  ASSERT_FALSE(calls.empty()) << child.out() << child.err();
  EXPECT_EQ(calls.at("node"), "file0");
  EXPECT_EQ(calls.at("source"), "probes");
  EXPECT_GT(calls.at("bytes").to_number<std::uint64_t>(), 0u);
  EXPECT_LE(calls.at("p50_ns").to_number<std::uint64_t>(), calls.at("max_ns").to_number<std::uint64_t>());
  const json::object requests = stats("\"device\":\"");
  ASSERT_FALSE(requests.empty()) << child.out() << child.err();
  EXPECT_EQ(requests.at("layer"), "block");
  end_well(child);
}

TEST(IoWatch, TellsOfAHangWhileItLastsAndOfItsEnd) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(fuse);
  VMWHY_NEEDS(bpf);
  const TempDir dir;
  FuseDisk fuse(dir.path() / "fuse");
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(fuse.file())});
  ChildProcess child(
      iowatch(vm, {"--json", "--syscall-probes", "-i", "300ms", "--hang", "500ms", "--slow", "400ms"}));
  ASSERT_TRUE(child.wait_error_line("watching")) << child.err();
  fuse.hang_data();
  vm.cont();
  const json::object hang = line_of(child.wait_line("\"kind\":\"hang\""));
  ASSERT_FALSE(hang.empty()) << child.out() << child.err();
  EXPECT_EQ(hang.at("layer"), "syscall");
  EXPECT_EQ(text_of(hang, "path"), fuse.file());
  EXPECT_GE(hang.at("latency_ns").to_number<std::uint64_t>(), 500'000'000u);
  const json::object again = line_of(child.wait_line("\"kind\":\"hang\""));
  ASSERT_FALSE(again.empty()) << child.err();
  fuse.let_go();
  EXPECT_TRUE(child.wait_line("\"kind\":\"slow\"")) << child.out() << child.err();
  end_well(child);
}

TEST(IoWatch, CountsANodeThatIsAddedLater) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(bpf);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(dir.sparse("disk.raw", kDiskBytes))});
  ChildProcess child(iowatch(vm, {"--json", "--syscall-probes", "-i", "100ms"}));
  ASSERT_TRUE(child.wait_error_line("watching")) << child.err();
  vm.call("blockdev-add",
          {{"driver", "file"}, {"node-name", "late0"}, {"filename", dir.sparse("late.raw", 1 << 20)}});
  EXPECT_TRUE(wait_until([&] {
    vm.hmp("qemu-io late0 \"read 0 4k\"");
    return child.wait_line("\"node\":\"late0\"", deadline_in(200ms)).has_value() ||
           child.out().find("\"node\":\"late0\"") != std::string::npos;
  })) << child.out()
      << child.err();
  end_well(child);
}

TEST(IoWatch, ShowsWhatQemuCountsWithoutAnyProbe) {
  VMWHY_NEEDS(qemu);
  const TempDir dir;
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(dir.sparse("disk.raw", kDiskBytes))});
  ChildProcess child(iowatch(vm, {"--no-bpf", "-i", "200ms"}));
  ASSERT_TRUE(child.wait_error_line("watching")) << child.err();
  vm.cont();
  EXPECT_TRUE(child.wait_line("guest device")) << child.err();
  EXPECT_TRUE(child.wait_line("    write")) << child.out() << child.err();
  end_well(child);
  EXPECT_NE(child.err().find("kernel probes are switched off"), std::string::npos) << child.err();
}

TEST(IoWatch, AsksForQemusCountsOnceAFileThatWasSlowAnswers) {
  VMWHY_NEEDS(qemu);
  VMWHY_NEEDS(fuse);
  const TempDir dir;
  FuseDisk fuse(dir.path() / "fuse");
  QemuProcess vm(dir, {.boot = "writer.bin", .args = disk(fuse.file(), "raw", "file", "locking=off")});
  fuse.hang_attributes();
  ChildProcess child(iowatch(vm, {"--no-bpf", "-i", "200ms"}));
  EXPECT_TRUE(child.wait_error_line("a file of its disks does not answer")) << child.err();
  fuse.let_go();
  vm.cont();
  EXPECT_TRUE(child.wait_line("guest device")) << child.out() << child.err();
  end_well(child);
}

}  // namespace
}  // namespace vmwhy::test
