// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Names what threads of QEMU sleep in, from the registers and the piece of stack that the probe kept. All
// that may wait for a sick process or its files is done by a thread of its own, which is left behind if it
// hangs: then stalls are told without. One thread; the worker is inside.

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bpf/load/stalls.hpp"
#include "stalls/times.hpp"

namespace vmwhy::kvm_stalls {

class UserStacks {
 public:
  UserStacks();
  ~UserStacks();
  UserStacks(const UserStacks&) = delete;
  UserStacks& operator=(const UserStacks&) = delete;

  /// Begins to read where the process's code lies.
  void add(std::uint32_t pid);
  void forget(std::uint32_t pid);
  /// Waits until what add() asked for has been read, but not beyond the deadline.
  void wait_until_read(std::chrono::milliseconds deadline);
  /// From the innermost outwards. Empty: not known, or not within the deadline.
  std::vector<stalls::UserFrame> name(std::uint32_t pid, const stalls_user& user,
                                      std::chrono::milliseconds deadline = std::chrono::milliseconds(200));
  /// So many stacks were not named in time.
  std::uint64_t missed() const { return missed_; }

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
  std::map<std::uint32_t, std::chrono::steady_clock::time_point> looked_;  ///< By process id.
  std::uint64_t missed_ = 0;
};

}  // namespace vmwhy::kvm_stalls
