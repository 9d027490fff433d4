// SPDX-License-Identifier: BSD-2-Clause
#include "tools/vm-iowatch/table.hpp"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "core/text.hpp"
#include "host/proc_file.hpp"

namespace vmwhy::vm_iowatch {
namespace {

constexpr const char* kColumns[IO_LEDGER_COLUMNS] = {"read", "write", "flush", "other"};

io_ledger_cell since(const io_ledger_cell& now, const io_ledger_cell& before) {
  io_ledger_cell out = now;
  out.count -= before.count;
  out.errors -= before.errors;
  out.bytes -= before.bytes;
  out.total_ns -= before.total_ns;
  std::uint64_t top = 0;
  for (unsigned i = 0; i < IO_LEDGER_BUCKETS; ++i) {
    out.log2[i] -= before.log2[i];
    if (out.log2[i] != 0) top = std::uint64_t{1} << (i + 10);
  }
  // A new record is this window's; otherwise its highest bucket bounds it.
  if (now.max_ns == before.max_ns) out.max_ns = std::min<std::uint64_t>(top, now.max_ns);
  return out;
}

void fill(Line& line, const io_ledger_cell& cell) {
  line.count = cell.count;
  line.errors = cell.errors;
  line.bytes = cell.bytes;
  line.p50_ns = quantile(cell, 0.5);
  line.p99_ns = quantile(cell, 0.99);
  if (!line.p50_ns) return;
  line.max_ns = cell.max_ns;
  std::uint64_t timed = 0;
  for (const std::uint64_t bucket : cell.log2) timed += bucket;
  line.mean_ns = cell.total_ns / timed;
}

/// Descriptors of a process that lead to `path`: QEMU may have it open several times. Asks no file system.
std::vector<std::int32_t> descriptors_of(std::uint32_t pid, const std::string& path, std::int32_t known) {
  std::vector<std::int32_t> out;
  if (known >= 0) out.push_back(known);
  const std::string folder = "/proc/" + std::to_string(pid) + "/fd";
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(folder.c_str()), &::closedir);
  if (!dir) return out;
  char target[4096];
  while (const dirent* entry = ::readdir(dir.get())) {
    const auto number = host::parse_u64(entry->d_name);
    if (!number || static_cast<std::int32_t>(*number) == known) continue;
    const ssize_t length = ::readlink((folder + "/" + entry->d_name).c_str(), target, sizeof target);
    if (length > 0 && std::string_view(target, static_cast<std::size_t>(length)) == path)
      out.push_back(static_cast<std::int32_t>(*number));
  }
  return out;
}

std::uint64_t number_at(const boost::json::object& object, const std::string& key) {
  const auto* value = object.if_contains(key);
  return value != nullptr && value->is_int64() ? static_cast<std::uint64_t>(value->get_int64()) : 0;
}

}  // namespace

std::string open_files(std::uint32_t pid) {
  std::vector<std::string> files;
  const std::string folder = "/proc/" + std::to_string(pid) + "/fd";
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(folder.c_str()), &::closedir);
  if (!dir) return {};
  char target[4096];
  while (const dirent* entry = ::readdir(dir.get())) {
    const ssize_t length = ::readlink((folder + "/" + entry->d_name).c_str(), target, sizeof target);
    if (length > 0 && target[0] == '/')
      files.push_back(std::string(entry->d_name) + " " +
                      std::string(target, static_cast<std::size_t>(length)));
  }
  std::sort(files.begin(), files.end());
  std::string out;
  for (const std::string& file : files) out += file + "\n";
  return out;
}

std::optional<std::uint64_t> quantile(const io_ledger_cell& cell, double q) {
  std::uint64_t total = 0;
  for (const std::uint64_t bucket : cell.log2) total += bucket;
  if (total == 0) return std::nullopt;
  const double wanted = q * static_cast<double>(total);
  double below = 0;
  for (unsigned i = 0; i < IO_LEDGER_BUCKETS; ++i) {
    const auto here = static_cast<double>(cell.log2[i]);
    if (below + here < wanted || here == 0) {
      below += here;
      continue;
    }
    const double low = i == 0 ? 0 : static_cast<double>(std::uint64_t{1} << (i + 9));
    const auto high = static_cast<double>(std::uint64_t{1} << (i + 10));
    const auto at = static_cast<std::uint64_t>(low + (high - low) * (wanted - below) / here);
    return cell.max_ns != 0 ? std::min<std::uint64_t>(at, cell.max_ns) : at;
  }
  return cell.max_ns;
}

Table::Table(bpf::IoLedger* probes, bool sees_calls, std::string sys)
    : probes_(probes), sees_calls_(sees_calls), sys_(std::move(sys)) {}

std::optional<std::uint32_t> Table::next_row() {
  if (probes_ == nullptr) return std::nullopt;
  if (rows_taken_ < kRows) return rows_taken_++;
  ++left_out_;
  return std::nullopt;
}

void Table::add_disk(const storage::Item& item) {
  const auto* major_number = item.facts.if_contains("major");
  const auto* minor_number = item.facts.if_contains("minor");
  if (major_number != nullptr && minor_number != nullptr && item.kind != "unknown") {
    const auto major = major_number->to_number<std::uint32_t>();
    const auto minor = minor_number->to_number<std::uint32_t>();
    const std::uint32_t dev = major << 20 | (minor & 0xfffff);
    const auto [at, fresh] = disks_.try_emplace(dev);
    if (fresh) {
      Disk& disk = at->second;
      disk.name = item.name;
      disk.kind = item.kind;
      disk.dev = dev;
      disk.folder = sys_ + "/dev/block/" + std::to_string(major) + ":" + std::to_string(minor);
      // Requests of a partition are its disk's.
      if (item.kind != "partition") disk.row = next_row();
      if (disk.row && !probes_->count_disk(dev, *disk.row)) disk.row.reset();
    }
  }
  for (const storage::Item& below : item.below) add_disk(below);
}

void Table::learn(const Vm& vm, const std::string& node, const storage::DeviceStack& stack) {
  // A descriptor that was closed may be another file's by now.
  for (auto& entry : files_) {
    if (entry.first.first != vm.id()) continue;
    for (const std::int32_t fd : entry.second.fds) probes_->forget_file(vm.pid(), fd);
    entry.second.fds.clear();
  }
  for (const auto& [path, facts] : vm.map().files) {
    const auto nodes = vm.nodes_of(path);
    if (nodes.empty() || (facts.file.flags & (trace::kNodeUnreachable | trace::kNodeStatFailed))) continue;
    const bool wanted = node.empty() || std::any_of(nodes.begin(), nodes.end(), [&](const std::string& each) {
                          return vm.map().graph.is_under(each, node);
                        });
    if (!wanted) continue;
    add_disk(storage::map_file(vm.map(), path, stack));
    if (!sees_calls_ || probes_ == nullptr) continue;
    const auto [at, fresh] = files_.try_emplace({vm.id(), path});
    File& file = at->second;
    if (fresh) {
      const auto row = next_row();
      if (!row) {
        files_.erase(at);
        continue;
      }
      file.row = *row;
    }
    file.vm = vm.name();
    file.node = nodes.front();
    file.path = path;
    file.pid = vm.pid();
    const bool by_fd = (facts.file.flags & trace::kNodeNoFd) == 0;
    file.fds = descriptors_of(vm.pid(), path, by_fd ? static_cast<std::int32_t>(facts.file.fd) : -1);
    const auto device = static_cast<dev_t>(facts.file.dev);
    const io_ledger_inode inode{facts.file.ino, major(device) << 20 | (minor(device) & 0xfffff), 0};
    for (const std::int32_t fd : file.fds)
      if (!probes_->count_file(vm.pid(), fd, inode, file.row)) ++left_out_;
  }
}

void Table::take(const Vm& vm, const boost::json::value& blockstats, std::uint64_t now_ns) {
  if (!blockstats.is_array()) return;
  for (const auto& entry : blockstats.get_array()) {
    const auto* object = entry.if_object();
    const auto* stats = object != nullptr ? object->if_contains("stats") : nullptr;
    const auto* node = object != nullptr ? object->if_contains("node-name") : nullptr;
    if (stats == nullptr || !stats->is_object() || node == nullptr || !node->is_string()) continue;
    Guest& guest = guests_[{vm.id(), std::string(node->get_string())}];
    guest.vm = vm.name();
    guest.node = std::string(node->get_string());
    guest.name = guest.node;
    for (const storage::GuestDevice& device : vm.map().graph.devices)
      if (device.node == guest.node) guest.name = device.name;
    // Of two replies between samples the first one's share is in the second.
    if (!guest.fresh) {
      guest.has_last = !guest.now.empty();
      guest.last = std::move(guest.now);
      guest.last_ns = guest.now_ns;
    }
    guest.now.clear();
    guest.now_ns = now_ns;
    for (const char* op : {"rd", "wr", "flush", "unmap"})
      for (const char* what : {"_operations", "_bytes", "_total_time_ns"})
        guest.now[std::string(op) + what] = number_at(stats->get_object(), std::string(op) + what);
    for (const char* op : {"rd", "wr", "flush", "unmap"})
      guest.now["failed_" + std::string(op)] =
          number_at(stats->get_object(), "failed_" + std::string(op) + "_operations");
    guest.fresh = true;
  }
}

Group Table::of(Guest& guest) {
  Group group{"guest device " + guest.name + (guest.name == guest.node ? "" : "  node " + guest.node),
              guest.vm,
              guest.node,
              "qemu",
              "",
              "",
              std::nullopt,
              {}};
  if (!std::exchange(guest.fresh, false) || !guest.has_last) return group;
  group.window_ns = guest.now_ns - guest.last_ns;
  constexpr std::pair<const char*, const char*> kOps[] = {
      {"rd", "read"}, {"wr", "write"}, {"flush", "flush"}, {"unmap", "other"}};
  for (const auto& [key, op] : kOps) {
    const auto delta = [&](const std::string& name) { return guest.now[name] - guest.last[name]; };
    Line line{guest.vm, guest.node, "qemu", "", "", op, "query-blockstats"};
    line.count = delta(std::string(key) + "_operations");
    line.errors = delta("failed_" + std::string(key));
    line.bytes = delta(std::string(key) + "_bytes");
    if (line.count != 0) line.mean_ns = delta(std::string(key) + "_total_time_ns") / line.count;
    group.lines.push_back(std::move(line));
  }
  return group;
}

Group Table::of(File& file, std::uint64_t now_ns) {
  Group group{
      "node " + file.node + "  " + file.path, file.vm, file.node, "syscall", "", file.path, InFlight{}, {}};
  group.in_flight->timed = true;
  for (const io_ledger_slot& slot : calls_) {
    if (slot.owner >> 32 != file.pid ||
        std::find(file.fds.begin(), file.fds.end(), slot.fd) == file.fds.end())
      continue;
    ++group.in_flight->count;
    group.in_flight->oldest_ns =
        std::max(group.in_flight->oldest_ns, now_ns - std::min<std::uint64_t>(now_ns, slot.start_ns));
  }
  const Cells now = probes_->row(file.row);
  for (unsigned column = 0; column < IO_LEDGER_COLUMNS; ++column) {
    Line line{file.vm, file.node, "syscall", "", file.path, kColumns[column], "probes"};
    fill(line, since(now[column], file.last[column]));
    group.lines.push_back(std::move(line));
  }
  file.last = now;
  return group;
}

Group Table::of(Disk& disk, std::uint64_t now_ns) {
  Group group{disk.kind + " " + disk.name, "", "", "block", disk.name, "", std::nullopt, {}};
  // Documentation/block/stat.rst: requests, merged, sectors, ms of reads; of writes; in flight, …
  std::vector<std::uint64_t> stat;
  const std::string text = host::read_or_empty(disk.folder + "/stat", 4096);
  for (const std::string_view word : split(text, ' '))
    if (const auto value = host::parse_u64(trim(word))) stat.push_back(*value);
  const Cells now = disk.row ? probes_->row(*disk.row) : Cells{};
  for (const io_ledger_cell& cell : now) disk.counted = disk.counted || cell.count != 0;
  if (disk.counted) {
    group.in_flight = InFlight{0, 0, true};
    for (const io_ledger_block_slot& slot : requests_) {
      if (slot.dev != disk.dev) continue;
      ++group.in_flight->count;
      group.in_flight->oldest_ns =
          std::max(group.in_flight->oldest_ns, now_ns - std::min<std::uint64_t>(now_ns, slot.start_ns));
    }
    for (unsigned column = 0; column < IO_LEDGER_COLUMNS; ++column) {
      Line line{"", "", "block", disk.name, "", kColumns[column], "probes"};
      fill(line, since(now[column], disk.last[column]));
      group.lines.push_back(std::move(line));
    }
    disk.last = now;
  } else if (stat.size() >= 9) {
    // A partition, or a device that passes bios on and has no requests of its own.
    group.in_flight = InFlight{stat[8], 0, false};
    const auto add = [&](const char* op, std::size_t at, bool sectors) {
      if (stat.size() < at + 4 || disk.last_stat.size() != stat.size()) return;
      Line line{"", "", "block", disk.name, "", op, "/sys"};
      const auto delta = [&](std::size_t field) { return stat[field] - disk.last_stat[field]; };
      line.count = delta(at);
      if (sectors) line.bytes = delta(at + 2) * 512;
      if (line.count != 0) line.mean_ns = delta(at + 3) * 1'000'000 / line.count;
      group.lines.push_back(std::move(line));
    };
    add("read", 0, true);
    add("write", 4, true);
    add("other", 11, true);  // Discards.
  }
  disk.last_stat = std::move(stat);
  return group;
}

std::vector<Group> Table::sample(std::uint64_t now_ns) {
  if (probes_ != nullptr) {
    calls_ = probes_->under_way();
    requests_ = probes_->block_under_way();
  }
  std::vector<Group> out;
  for (auto& entry : guests_) {
    out.push_back(of(entry.second));
    out.back().vm_id = entry.first.first;
  }
  for (auto& entry : files_) {
    out.push_back(of(entry.second, now_ns));
    out.back().vm_id = entry.first.first;
  }
  for (auto& entry : disks_) out.push_back(of(entry.second, now_ns));
  return out;
}

std::string Table::disk_name(std::uint32_t kernel_dev) const {
  const auto at = disks_.find(kernel_dev);
  return at == disks_.end() ? std::string() : at->second.name;
}

}  // namespace vmwhy::vm_iowatch
