// SPDX-License-Identifier: BSD-2-Clause
// From a block node down to the disk, on /sys trees and replies made for it, and on a real loop device.

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <boost/json/parse.hpp>
#include <filesystem>
#include <fstream>

#include "host/device_stack.hpp"
#include "storage/graph.hpp"
#include "storage/map.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/loop_device.hpp"
#include "tests/support/temp_dir.hpp"

namespace vmwhy::storage {
namespace {

namespace fs = std::filesystem;
using test::TempDir;

/// A /sys with the block devices that a test asks for.
class FakeSys {
 public:
  explicit FakeSys(const TempDir& dir) : root_(dir.path() / "sys") {
    fs::create_directories(root_ / "dev/block");
    fs::create_directories(root_ / "class/block");
  }
  std::string path() const { return root_.string(); }

  /// `place` below devices/: "sda", "sda/sda1". Files: {"dm/name", "vg-lv"}.
  fs::path add(const std::string& place, const std::string& number,
               const std::vector<std::pair<std::string, std::string>>& files = {},
               std::uint64_t sectors = 2048) {
    const fs::path folder = root_ / "devices" / place;
    fs::create_directories(folder / "slaves");
    write(folder / "dev", number + "\n");
    write(folder / "size", std::to_string(sectors) + "\n");
    for (const auto& [name, text] : files) write(folder / name, text + "\n");
    fs::create_directory_symlink(folder, root_ / "dev/block" / number);
    fs::create_directory_symlink(folder, root_ / "class/block" / folder.filename());
    return folder;
  }
  void put_below(const fs::path& above, const fs::path& below) {
    fs::create_directory_symlink(below, above / "slaves" / below.filename());
  }

 private:
  static void write(const fs::path& path, const std::string& text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  fs::path root_;
};

constexpr const char* kMounts =
    "21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
    "30 21 253:2 / /var/lib/images rw - xfs /dev/mapper/vg-images rw\n"
    "31 21 8:1 /srv/vm /mnt/bind rw - ext4 /dev/sda1 rw\n"
    "32 21 0:40 / /mnt/with\\040blank rw - tmpfs small rw,size=4096k\n"
    "33 21 0:41 / /merged rw - overlay overlay rw,lowerdir=/l,upperdir=/var/lib/images/up,workdir=/w\n"
    "34 21 0:42 / /net rw - nfs4 server:/export rw\n"
    "garbage\n";

const DeviceStack stack_of(const FakeSys& sys) {
  return DeviceStack(sys.path(), kMounts);
}

/// "lv>dm-crypt>disk": kinds along the first of each.
std::string kinds(const Item& item) {
  return item.kind + (item.below.empty() ? "" : ">" + kinds(item.below.front()));
}

TEST(DeviceStack, GoesFromAThinVolumeThroughPoolAndCryptToTheDisk) {
  const TempDir dir;
  FakeSys sys(dir);
  const auto disk = sys.add("sda", "8:0", {{"device/model", "FAST SSD"}, {"device/state", "running"}});
  const auto part = sys.add("sda/sda2", "8:2", {{"partition", "2"}, {"start", "4096"}});
  const auto crypt = sys.add("dm-0", "253:0", {{"dm/name", "luks-x"}, {"dm/uuid", "CRYPT-LUKS2-ab-luks-x"}});
  const auto data = sys.add("dm-1", "253:1", {{"dm/name", "vg-pool_tdata"}, {"dm/uuid", "LVM-abc-tdata"}});
  const auto pool = sys.add("dm-2", "253:2", {{"dm/name", "vg-pool-tpool"}, {"dm/uuid", "LVM-abc-tpool"}});
  const auto thin = sys.add("dm-3", "253:3", {{"dm/name", "vg-vm1"}, {"dm/uuid", "LVM-abcdef"}});
  sys.put_below(thin, pool);
  sys.put_below(pool, data);
  sys.put_below(data, crypt);
  sys.put_below(crypt, part);
  const Item item = stack_of(sys).device(253, 3);
  EXPECT_EQ(kinds(item), "thin-volume>thin-pool>lv>dm-crypt>partition>disk");
  EXPECT_NE(item.detail.find("vg-vm1"), std::string::npos);
  EXPECT_EQ(DeviceStack::devices_of(item), "dm-3=253:3 dm-2=253:2 dm-1=253:1 dm-0=253:0 sda2=8:2 sda=8:0");
}

TEST(DeviceStack, ShowsEachPathOfAMultipathAndEachMemberOfAnArray) {
  const TempDir dir;
  FakeSys sys(dir);
  const auto a = sys.add("sdb", "8:16", {{"device/state", "offline"}});
  const auto b = sys.add("sdc", "8:32", {{"device/state", "running"}});
  const auto paths = sys.add("dm-0", "253:0", {{"dm/uuid", "mpath-3600"}, {"dm/name", "mpatha"}});
  sys.put_below(paths, a);
  sys.put_below(paths, b);
  const auto array = sys.add("md0", "9:0",
                             {{"md/level", "raid1"},
                              {"md/array_state", "clean"},
                              {"md/degraded", "1"},
                              {"md/dev-dm-0/state", "in_sync"}});
  sys.put_below(array, paths);
  const Item item = stack_of(sys).device(9, 0);
  EXPECT_EQ(item.kind, "md");
  EXPECT_EQ(item.note, "1 members are missing");
  ASSERT_EQ(item.below.size(), 1u);
  EXPECT_EQ(item.below[0].kind, "multipath");
  ASSERT_EQ(item.below[0].below.size(), 2u);
  EXPECT_EQ(item.below[0].below[0].note, "its state is offline");
  EXPECT_EQ(item.below[0].below[1].note, "");
}

TEST(DeviceStack, SaysThatADeviceIsGoneOrHasNoSizeAndEndsACircle) {
  const TempDir dir;
  FakeSys sys(dir);
  EXPECT_NE(stack_of(sys).device(8, 99).note.find("no such block device"), std::string::npos);
  sys.add("sdd", "8:48", {}, 0);
  EXPECT_EQ(stack_of(sys).device(8, 48).note, "it has size 0 now");
  const auto one = sys.add("dm-8", "253:8", {{"dm/uuid", "x"}});
  const auto two = sys.add("dm-9", "253:9", {{"dm/uuid", "y"}});
  sys.put_below(one, two);
  sys.put_below(two, one);
  EXPECT_NE(to_text(stack_of(sys).device(253, 8)).find("goes deeper"), std::string::npos);
}

TEST(DeviceStack, FollowsALoopDeviceToItsFileAndSaysIfThatIsDeleted) {
  const TempDir dir;
  FakeSys sys(dir);
  sys.add("sda", "8:0");
  sys.add("sda/sda1", "8:1", {{"partition", "1"}});
  sys.add("loop0", "7:0", {{"loop/backing_file", "/srv/disk.img"}});
  sys.add("loop1", "7:1", {{"loop/backing_file", "/srv/gone.img (deleted)"}});
  EXPECT_EQ(kinds(stack_of(sys).device(7, 0)), "loop>file>fs>partition>disk");
  const Item gone = stack_of(sys).device(7, 1);
  ASSERT_EQ(gone.below.size(), 1u);
  EXPECT_EQ(gone.below[0].name, "/srv/gone.img");
  EXPECT_NE(gone.below[0].note.find("deleted"), std::string::npos);
}

TEST(DeviceStack, KnowsMountsOfEveryKind) {
  const TempDir dir;
  FakeSys sys(dir);
  sys.add("sda", "8:0");
  sys.add("sda/sda1", "8:1", {{"partition", "1"}});
  sys.add("dm-2", "253:2", {{"dm/name", "vg-images"}, {"dm/uuid", "LVM-abc"}});
  const auto mounts = host::parse_mounts(kMounts);
  ASSERT_EQ(mounts.size(), 6u);
  const auto on = [&](const char* path) { return stack_of(sys).file_system(*host::mount_of(mounts, path)); };
  EXPECT_EQ(kinds(on("/etc/x")), "fs>partition>disk");
  EXPECT_EQ(kinds(on("/var/lib/images/a.qcow2")), "fs>lv");
  EXPECT_EQ(kinds(on("/var/lib/imagesx")), "fs>partition>disk") << "a longer name is no folder of it";
  EXPECT_NE(on("/mnt/bind/x").detail.find("bind mount of /srv/vm"), std::string::npos);
  EXPECT_NE(on("/mnt/with blank/x").detail.find("in memory"), std::string::npos);
  EXPECT_EQ(kinds(on("/merged/x")), "fs>fs>lv");
  EXPECT_EQ(kinds(on("/net/x")), "fs>remote");
}

TEST(DeviceStack, ShowsARealLoopDevice) {
  VMWHY_NEEDS(loop);
  const TempDir dir;
  const std::string file = dir.sparse("backing", 8 << 20);
  const test::LoopDevice loop(file);
  struct stat device {};
  ASSERT_EQ(::stat(loop.path().c_str(), &device), 0);
  const Item item = DeviceStack().device(major(device.st_rdev), minor(device.st_rdev));
  EXPECT_EQ(item.kind, "loop");
  EXPECT_EQ(item.name, loop.name());
  EXPECT_EQ(item.facts.at("size_bytes").to_number<std::uint64_t>(), 8u << 20);
  ASSERT_EQ(item.below.size(), 1u);
  EXPECT_EQ(item.below[0].name, file);
  ASSERT_EQ(item.below[0].below.size(), 1u) << to_text(item);
  EXPECT_EQ(item.below[0].below[0].kind, "fs");
}

// As QEMU 7.2 answers: a throttle filter over qcow2 over a file, with a backing file.
Graph sample() {
  return parse_graph(
      boost::json::parse(R"([
        {"node-name":"thr0","drv":"throttle","file":"json:{\"driver\":\"throttle\",\"file\":{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"/i/top.qcow2\"}}}"},
        {"node-name":"base","drv":"qcow2","file":"/i/base.qcow2"},
        {"node-name":"basefile","drv":"file","file":"/i/base.qcow2"},
        {"node-name":"fmt0","drv":"qcow2","file":"/i/top.qcow2"},
        {"node-name":"file0","drv":"file","file":"/i/top.qcow2"},
        {"node-name":"net0","drv":"nbd","file":"nbd://user:secret@host/x"},
        {"node-name":"","drv":"file"}, 7])"),
      boost::json::parse(
          R"([{"device":"","qdev":"/machine/peripheral/vd0/virtio-backend","inserted":{"node-name":"thr0"}},
                             {"device":"cd0"}])"),
      boost::json::parse(R"([{"node-name":"thr0","parent":{"node-name":"fmt0","parent":{"node-name":"file0"},
          "backing":{"node-name":"base","parent":{"node-name":"basefile"}}},"backing":{"node-name":"fmt0"}}])"));
}

TEST(Graph, ReadsWhatLiesUnderWhat) {
  const Graph graph = sample();
  ASSERT_EQ(graph.devices.size(), 2u);
  EXPECT_EQ(graph.devices[0].name, "vd0");
  EXPECT_EQ(graph.devices[0].node, "thr0");
  EXPECT_TRUE(graph.is_under("basefile", "thr0"));
  EXPECT_FALSE(graph.is_under("net0", "thr0"));
  EXPECT_EQ(graph.loose(), std::vector<std::string>{"net0"});
  EXPECT_EQ(graph.nodes.at("net0").filename.find("secret"), std::string::npos);
  EXPECT_EQ(paths_of(graph, "thr0"), std::vector<std::string>{"/i/top.qcow2"});
  EXPECT_TRUE(paths_of(graph, "net0").empty());
}

TEST(Graph, EndsWhereARunawayReplyGoesInCircles) {
  const Graph graph =
      parse_graph(boost::json::parse(R"([{"node-name":"a","children":[{"child":"file","node-name":"b"}]},
                             {"node-name":"b","children":[{"child":"file","node-name":"a"}]}])"),
                  nullptr, nullptr);
  EXPECT_TRUE(graph.is_under("b", "a"));
  EXPECT_TRUE(paths_of(graph, "a").empty());
  MapInput input;
  input.graph = graph;
  const TempDir dir;
  const FakeSys sys(dir);
  EXPECT_TRUE(map_vm(input, stack_of(sys), "a"));
}

TEST(StorageMap, ShowsTheWholeWayAndSaysWhatIsWrongWithEachPart) {
  const TempDir dir;
  FakeSys sys(dir);
  sys.add("sda", "8:0");
  sys.add("dm-2", "253:2", {{"dm/name", "vg-images"}, {"dm/uuid", "LVM-abc"}});
  MapInput input;
  input.name = "web1";
  input.pid = 42;
  input.graph = sample();
  input.mounts = host::parse_mounts("30 21 253:2 / /i rw - xfs /dev/mapper/vg-images rw\n");
  host::NodeFacts top;
  top.file.mode = S_IFREG;
  top.file.fd = 9;
  top.file.dev = makedev(253, 2);
  top.mount_point = "/i";
  top.fs_type = "xfs";
  input.files["/i/top.qcow2"] = top;
  top.file.flags = trace::kNodeDeleted;
  input.files["/i/base.qcow2"] = top;
  const auto map = map_vm(input, stack_of(sys));
  ASSERT_TRUE(map);
  EXPECT_EQ(kinds(*map), "vm>guest device>node>node>node>file>fs>lv");
  const std::string text = to_text(*map);
  EXPECT_NE(text.find("deleted: QEMU's descriptor keeps it"), std::string::npos) << text;
  EXPECT_NE(text.find("guest device cd0  [no medium]"), std::string::npos) << text;
  EXPECT_NE(text.find("remote nbd://user:***@host/x"), std::string::npos) << text;
  EXPECT_FALSE(map_vm(input, stack_of(sys), "nosuch"));
  const auto json = to_json(*map);
  EXPECT_EQ(json.at("below").as_array().size(), 3u);
}

TEST(StorageMap, NamesADeadDeviceAndAFileThatDoesNotAnswer) {
  const TempDir dir;
  FakeSys sys(dir);
  sys.add("sdd", "8:48", {}, 0);
  MapInput input;
  host::NodeFacts facts;
  facts.file.mode = S_IFBLK;
  facts.file.rdev = makedev(8, 48);
  input.files["/dev/sdd"] = facts;
  facts.file.flags = trace::kNodeUnreachable;
  input.files["/nfs/x"] = facts;
  const Item dead = map_file(input, "/dev/sdd", stack_of(sys));
  ASSERT_EQ(dead.below.size(), 1u);
  EXPECT_EQ(dead.below[0].note, "it has size 0 now");
  EXPECT_EQ(map_file(input, "/nfs/x", stack_of(sys)).note, "its storage does not answer");
  EXPECT_EQ(map_file(input, "/never", stack_of(sys)).note, "it was not looked at");
}

}  // namespace
}  // namespace vmwhy::storage
