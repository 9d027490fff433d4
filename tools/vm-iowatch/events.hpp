// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One failure, slow or hung request, with everything that is known of its way: guest's error ↔ block node ↔
// system call ↔ file system ↔ disk. A lower layer's failure belongs to a higher one's if it is of a disk
// under the same file, and came shortly before.

#include <boost/json/object.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bpf/load/io_ledger.hpp"
#include "host/device_stack.hpp"
#include "tools/vm-iowatch/vm.hpp"
#include "trace/record.hpp"

namespace vmwhy::vm_iowatch {

/// What --json prints; empty and unset members are left out.
struct Event {
  std::string kind;  ///< "error", "slow", "hang".
  std::uint64_t time_ns = 0;
  std::string vm, node, op, layer, device, path, errno_name, status;
  std::string address;  ///< Of a storage server.
  std::optional<std::uint64_t> offset, sector, length, latency_ns;
  boost::json::array chain;  ///< From the layer that told of it down.
  std::string text;          ///< One line for people, without time and VM.
};

class Events {
 public:
  using Handler = std::function<void(const Event&)>;
  using FindVm = std::function<const Vm*(std::uint32_t)>;
  /// @param node  Only what is, or lies under, this node; empty: all.
  Events(FindVm find_vm, const storage::DeviceStack& stack, std::string node, Handler handler);

  /// The VM's map is known, or has changed.
  void learn(const Vm& vm);
  /// io_syscall and io_block; others are passed over.
  void take(const trace::RecordView& record);
  /// BLOCK_IO_ERROR; others are passed over.
  void take(const Vm& vm, const qmp::Event& event);
  /// Disk requests that have not ended after `hang_ns`: told when they cross it, and again each time `again`
  /// is set.
  void look(const std::vector<io_ledger_block_slot>& under_way, std::uint64_t now_ns, std::uint64_t hang_ns,
            bool again);

 private:
  struct Place {
    std::string node;
    std::string fs_type, mount;
    std::vector<std::pair<std::string, std::uint64_t>> disks;  ///< Name, st_rdev.
  };
  struct Block {
    std::uint64_t time_ns;
    trace::IoBlock io;
    std::string disk, status;
  };
  struct Call {
    std::uint64_t time_ns;
    std::uint32_t vm;
    trace::IoSyscall io;
    std::string path, call;
  };
  void on_call(const Call& call);
  void on_block(const Block& block);
  const Place* place_of(std::uint32_t vm, const std::string& path) const;
  const Block* block_under(const Place* place, std::uint64_t time_ns) const;
  const Call* call_under(const Vm& vm, const std::string& node, bool read, std::uint64_t time_ns) const;
  void add_call(Event& event, const Call& call, const Place* place) const;
  void add_block(Event& event, const Block& block) const;
  bool wanted(const Vm* vm, const std::string& node) const;

  FindVm find_vm_;
  const storage::DeviceStack& stack_;
  std::string node_;
  Handler handler_;
  std::map<std::pair<std::uint32_t, std::string>, Place> places_;  ///< By VM and path.
  std::deque<Block> blocks_;
  std::deque<Call> calls_;
  std::map<std::uint64_t, std::uint64_t> hung_;  ///< Block requests told of: address and begin.
};

/// "read", "write", … as JSON and tables name it.
const char* operation_name(std::uint32_t operation);
/// The line of --json, schema vmwhy.io/1.
boost::json::object to_json(const Event& event);

}  // namespace vmwhy::vm_iowatch
