// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Which threads are watched: finds VMs and their threads, those that come later too, registers them with the
// probe, and reads what it counted. One thread: the io_context's.

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "bpf/load/stalls.hpp"
#include "core/failure.hpp"
#include "host/process.hpp"
#include "qmp/discovery.hpp"
#include "tools/kvm-stalls/model.hpp"
#include "tools/kvm-stalls/options.hpp"

namespace vmwhy::kvm_stalls {

/// The VMs that the options mean. Errors: a sentence that names what was not found.
Result<std::vector<qmp::QemuProcess>> find_vms(const Options& options);

class Tracker {
 public:
  using OnVm = std::function<void(const qmp::QemuProcess&)>;
  /// @param on_vm  Called for each VM, before its threads are registered.
  Tracker(bpf::Stalls& probes, const Options& options, OnVm on_vm)
      : probes_(probes), options_(options), on_vm_(std::move(on_vm)) {}

  void add(const qmp::QemuProcess& process);
  /// Looks for threads, and with --all for VMs, that came since.
  /// @return processes that are gone without forget(): their end was not seen.
  std::vector<std::uint32_t> look_again();
  /// The process ended.
  void forget(std::uint32_t pid);

  struct Watched {
    std::uint32_t slot = 0;
    Thread thread;
    Counted last;   ///< At the last window's end.
    Counted first;  ///< When it was registered.
    /// Of all windows, by pid, tid and name: the probe keeps only those that ran last.
    std::map<std::tuple<std::uint32_t, std::uint32_t, std::string>, std::uint64_t> culprits;
  };
  /// By slot.
  const std::map<std::uint32_t, Watched>& threads() const { return threads_; }
  const Watched* find(std::uint32_t slot, std::uint32_t tid) const;
  /// A thread of that process by its number; null: it is not watched.
  const Thread* thread(std::uint32_t pid, std::uint32_t tid) const;
  const std::map<std::uint32_t, std::string>& names() const { return names_; }
  bool empty() const { return alive_.empty(); }

  /// The times of all threads since the last call. Threads that ended are told once, and then forgotten.
  std::vector<Share> window();
  /// Until the end of the last window, since each thread was registered; those that ended included.
  std::vector<Share> total();

  /// How long a thread of that role may not get on before that is a stall.
  std::uint64_t threshold(trace::ThreadRole role) const;
  /// A stall that has not ended, when it crosses the threshold and ten, a hundred … times that.
  std::vector<Seen> ongoing(std::uint64_t now_ns);
  /// So long after the last ongoing() the first of the stalls that it saw crosses; the greatest number: none.
  std::uint64_t next_crossing_ns() const { return next_crossing_ns_; }

  /// Whether the stall that began then was told by ongoing().
  bool told(std::uint32_t slot, std::uint64_t begin_ns) const;

  /// Sentences on threads that could not be watched; each once.
  std::vector<std::string> take_notes();

 private:
  void add_thread(const qmp::QemuProcess& process, const qmp::QemuThread& thread);
  void learn_role(Watched& watched, const stalls_thread& row) const;
  void note(std::string text);
  /// Its process or thread is gone, and no event told of that: what uses its number now is another.
  void drop_unseen_ends(std::uint32_t pid, const std::set<std::uint32_t>& tids);
  void end_watch(std::uint32_t slot);

  struct Told {
    std::uint64_t begin_ns = 0;
    std::uint64_t next_ns = 0;  ///< The length at which it is told again.
    bool once = false;
  };

  bpf::Stalls& probes_;
  const Options& options_;
  OnVm on_vm_;
  std::map<std::uint32_t, Watched> threads_;
  std::map<std::uint32_t, std::uint32_t> slot_of_;  ///< By thread id.
  struct Alive {
    std::uint64_t start_ns = 0;
    host::ProcessWatch process;  ///< Sees no other process of that number.
  };
  std::map<std::uint32_t, Alive> alive_;  ///< By process id.
  std::map<std::uint32_t, std::string> names_;
  std::map<std::uint32_t, Told> told_;  ///< By slot.
  std::vector<Share> ended_;
  std::vector<std::string> notes_;
  std::uint64_t unlisted_ = 0;
  std::uint64_t next_crossing_ns_ = UINT64_MAX;
  bool full_ = false;
};

}  // namespace vmwhy::kvm_stalls
