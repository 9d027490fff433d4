// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Loads, attaches and reads the probe family io_ledger (bpf/probes/io_ledger.bpf.c): failed, short and slow
// storage requests of watched processes, those under way, and failed requests of the block layer. One thread.

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bpf/include/io_ledger.h"
#include "bpf/load/environment.hpp"
#include "bpf/load/failure.hpp"

namespace vmwhy::bpf {

struct IoLedgerOptions {
  /// How system calls are followed.
  enum class Form {
    automatic,  ///< function where that works, otherwise none.
    any,        ///< function where that works, otherwise raw.
    function,   ///< fentry and fexit of the storage calls alone: other calls cost nothing, of whomever.
    raw,        ///< raw_tp sys_enter and sys_exit: every system call of the host takes the traced path.
    none,       ///< Only the block layer and io_uring.
  };
  Form form = Form::automatic;
  std::uint64_t slow_ns = 500'000'000;
  std::size_t ring_bytes = 256u << 10;  ///< Rounded up to a power of two of pages.
  /// Rows in which requests are counted, successes too; 0: only failures and slow ones are told. Rows cost
  /// 1.2 KiB a CPU. Requests of the block layer take a longer way then, all of this host's.
  std::uint32_t rows = 0;
};

/// What became of one source.
struct IoLedgerSource {
  std::string
      name;  ///< "system calls", "block layer", "device mapper and md", "io_uring", "block statistics".
  std::string form;  ///< "fexit", "raw_tp"; empty: not attached.
  bool attached = false;
  std::string error;  ///< Why not.
};

struct IoLedgerLosses {
  std::uint64_t counters[IO_LEDGER_STATS] = {};
  /// Failures that should have been in the result and are not.
  std::uint64_t lost() const { return counters[IO_LEDGER_STAT_RING_FULL]; }
  static const char* name(unsigned stat);
};

class IoLedger {
 public:
  /// Verifies, loads and attaches; nobody is watched yet.
  /// Errors: the obstacle of the environment, libbpf's errno with its last words, or that no source of system
  /// calls could be attached.
  static Result<std::unique_ptr<IoLedger>> open(const Environment& environment,
                                                const IoLedgerOptions& options = {});
  ~IoLedger();

  /// @param pid  Of a process, not a thread. Errors: the table of 16384 processes is full.
  Result<void> watch(std::uint32_t pid);
  void unwatch(std::uint32_t pid);

  const std::vector<IoLedgerSource>& sources() const;
  IoLedgerLosses losses() const;
  /// Requests under way of all watched processes.
  std::vector<io_ledger_slot> under_way() const;

  /// Requests to this file of a watched process are counted in `row` from now on: system calls by the
  /// descriptor, io_uring by the inode (`dev` as the kernel numbers it; ino 0: not known).
  /// Errors: there are no rows, or the table is full.
  Result<void> count_file(std::uint32_t pid, std::int32_t fd, const io_ledger_inode& inode,
                          std::uint32_t row);
  /// That descriptor's requests are counted nowhere from now on.
  void forget_file(std::uint32_t pid, std::int32_t fd);
  /// Requests to this disk (major << 20 | minor), of whomever.
  Result<void> count_disk(std::uint32_t dev, std::uint32_t row);
  /// The cells of a row, all CPUs together, since the beginning.
  std::array<io_ledger_cell, IO_LEDGER_COLUMNS> row(std::uint32_t row) const;
  /// Requests under way to the disks that are counted.
  std::vector<io_ledger_block_slot> block_under_way() const;
  int ring_fd() const;

 private:
  class Impl;
  explicit IoLedger(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// "pwrite64", "io_uring"; "" for none.
const char* call_name(std::uint32_t call);
/// A blk_status_t as the kernel's log names it, with its errno: {"critical medium", ENODATA}. What is not
/// known is {"", EIO}.
struct BlockStatus {
  const char* name;
  int error;
};
BlockStatus block_status(std::int64_t result);

}  // namespace vmwhy::bpf
