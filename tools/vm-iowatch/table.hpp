// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Rates, latencies and requests in flight, by guest device (as QEMU counts them), by file (system calls,
// where they are followed) and by disk below it (the block layer). One thread.

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bpf/load/io_ledger.hpp"
#include "host/device_stack.hpp"
#include "tools/vm-iowatch/vm.hpp"

namespace vmwhy::vm_iowatch {

/// Requests of one operation in one window.
struct Line {
  std::string vm;      ///< Empty: the host's disk, which others may use too.
  std::string node;    ///< Block node, or guest device.
  std::string layer;   ///< "qemu", "syscall", "block".
  std::string device;  ///< Disk.
  std::string path;
  std::string op;      ///< "read", "write", "flush", "other".
  std::string source;  ///< "query-blockstats", "probes", "/sys".
  std::uint64_t count = 0, errors = 0, bytes = 0;
  std::optional<std::uint64_t> mean_ns, p50_ns, p99_ns, max_ns;
};

/// What has not ended, of one file or disk.
struct InFlight {
  std::uint64_t count = 0, oldest_ns = 0;
  bool timed = false;  ///< oldest_ns is known.
};

struct Group {
  std::string title;  ///< "node file0  /var/lib/x.raw", "disk sda".
  std::string vm, node, layer, device, path;
  std::optional<InFlight> in_flight;
  std::vector<Line> lines;
  std::uint32_t vm_id = 0;  ///< Its number in the trace; 0: a disk of the host.
  /// What the lines count, where it is not the time since the last sample: QEMU answers when it can.
  std::optional<std::uint64_t> window_ns{};
};

class Table {
 public:
  /// @param probes  Null: without the kernel's own counts.
  Table(bpf::IoLedger* probes, bool sees_calls, std::string sys = "/sys");

  /// The VM's map is known, or has changed. @param node  Only what lies under it; empty: all.
  void learn(const Vm& vm, const std::string& node, const storage::DeviceStack& stack);
  /// The reply to query-blockstats of a VM, which came now.
  void take(const Vm& vm, const boost::json::value& blockstats, std::uint64_t now_ns);
  /// What happened since the last call. @param window_ns  How long ago that was.
  std::vector<Group> sample(std::uint64_t now_ns);
  /// Files and disks that found no row to be counted in.
  std::uint64_t left_out() const { return left_out_; }
  /// "sda" of a device number as the kernel has it; empty: not known.
  std::string disk_name(std::uint32_t kernel_dev) const;

 private:
  using Cells = std::array<io_ledger_cell, IO_LEDGER_COLUMNS>;
  struct File {
    std::string vm, node, path;
    std::uint32_t pid = 0;
    std::vector<std::int32_t> fds;
    std::uint32_t row = 0;
    Cells last{};
  };
  struct Disk {
    std::string name, kind;
    std::uint32_t dev = 0;
    std::string folder;
    std::optional<std::uint32_t> row;
    Cells last{};
    std::vector<std::uint64_t> last_stat;
    bool counted = false;  ///< The probes have seen a request of it.
  };
  /// Counters of one guest device, as QEMU has summed them up.
  struct Guest {
    std::string vm, name, node;
    std::map<std::string, std::uint64_t> now, last;
    std::uint64_t now_ns = 0, last_ns = 0;
    bool fresh = false, has_last = false;
  };
  std::optional<std::uint32_t> next_row();
  void add_disk(const storage::Item& item);
  Group of(File& file, std::uint64_t now_ns);
  Group of(Disk& disk, std::uint64_t now_ns);
  Group of(Guest& guest);

  bpf::IoLedger* probes_;
  bool sees_calls_;
  std::string sys_;
  std::uint32_t rows_taken_ = 0;
  std::uint64_t left_out_ = 0;
  std::map<std::pair<std::uint32_t, std::string>, File> files_;
  std::map<std::uint32_t, Disk> disks_;
  std::map<std::pair<std::uint32_t, std::string>, Guest> guests_;
  std::vector<io_ledger_slot> calls_;
  std::vector<io_ledger_block_slot> requests_;
};

/// Rows that a run of vm-iowatch has.
inline constexpr std::uint32_t kRows = 1024;

/// Every descriptor of a process that leads to a path, one a line: another text, and the map is to be learned
/// anew. Asks no file system.
std::string open_files(std::uint32_t pid);

/// The quantile of a window's histogram, interpolated within its bucket; nothing for an empty one.
std::optional<std::uint64_t> quantile(const io_ledger_cell& cell, double q);

}  // namespace vmwhy::vm_iowatch
