// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Loads, attaches and reads the probe family stalls (bpf/probes/stalls.bpf.c): registers threads, and copies
// their rows. Owns the programs and maps; what the numbers mean to a person is not its business. One thread.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bpf/include/stalls.h"
#include "bpf/load/environment.hpp"
#include "bpf/load/failure.hpp"

namespace vmwhy::bpf {

struct StallsOptions {
  enum class Form { btf, raw };
  Form form = Form::btf;
  std::uint32_t max_threads = 512;
  std::size_t ring_bytes = 1u << 20;             ///< Rounded up to a power of two of pages.
  bool kvm = true;                               ///< KVM's tracepoints, where there are any.
  std::uint64_t vcpu_threshold_ns = 10'000'000;  ///< Of threads that enter the guest.
  std::string custom_btf;                        ///< Tests: a file whose BTF stands in for the kernel's.
  Isa isa = Isa::unknown;                        ///< Tests: instead of the environment's.
  std::vector<std::string> lacking;              ///< Tests: tracepoints that this kernel is said not to have.
};

/// What became of one probe. Attached is not firing: silence and health are told apart by `hits`, which
/// counts events of registered threads only.
struct StallsProbe {
  std::string name;  ///< The tracepoint's.
  bool attached = false;
  std::string error;  ///< Why not.
  std::uint64_t hits = 0;
};

/// What is missing from the result.
struct StallsLosses {
  std::uint64_t ring_full = 0;      ///< Stalls, signals and ends.
  std::uint64_t waiters_full = 0;   ///< Waits whose culprits are not known.
  std::uint64_t read_failed = 0;    ///< Exit reasons.
  std::uint64_t switch_missed = 0;  ///< Switches that the kernel did not tell of: nobody is blamed for them.
};

class Stalls {
 public:
  /// Verifies and loads; nothing runs yet. Errors: the obstacle of the environment, or libbpf's errno with
  /// its last words.
  static Result<std::unique_ptr<Stalls>> load(const Environment& environment, const StallsOptions& options);
  ~Stalls();

  /// Errors: a tracepoint of the scheduler without which nothing can be accounted could not be attached.
  Result<void> attach();
  void detach();

  /// Registers a thread. Errors: EEXIST, ENOSPC with the remedy, ERANGE for an id above kernel.pid_max.
  /// @param threshold_ns  Stalls shorter than this are not told.
  /// @return its slot.
  Result<std::uint32_t> add(std::uint32_t tgid, std::uint32_t tid, std::uint64_t threshold_ns);
  /// Forgets the thread, and lets its slot be used again.
  void remove(std::uint32_t slot);
  /// Finds out what registered threads do of which no event has told yet.
  void settle();

  /// A consistent copy of a row. Nothing where its writer did not rest for long enough (tried many times), or
  /// the slot is free.
  std::optional<stalls_thread> read(std::uint32_t slot) const;
  /// The user stack of the sleep that `block` of that slot's row tells of. Null: none was kept, or another
  /// sleep has taken its place.
  std::unique_ptr<stalls_user> user_stack(std::uint32_t slot, const stalls_block& block) const;
  /// When the thread stopped getting on; 0: it gets on, or the slot is free. Costs one look.
  std::uint64_t stalled_since(std::uint32_t slot) const;
  std::uint32_t capacity() const;
  bool tells_guest() const;  ///< kvm_entry and kvm_exit are attached.

  std::vector<StallsProbe> probes() const;
  StallsLosses losses() const;
  int ring_fd() const;

  /// Tests: runs a raw_tp program with these arguments in the calling thread. Returns an errno, or 0.
  int test_run(const std::string& program, std::vector<std::uint64_t> arguments) const;
  /// Kernel's run-time statistics of all programs (kernel.bpf_stats_enabled): runs and ns.
  std::pair<std::uint64_t, std::uint64_t> run_time() const;

 private:
  class Impl;
  explicit Stalls(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// The mask of states in which a thread gets on or has nothing to do.
std::uint32_t stalls_good_mask(bool enters_guest);
/// "guest", "waiting", …; "" for a number that is no state.
const char* stalls_state_name(std::uint32_t state);

}  // namespace vmwhy::bpf
