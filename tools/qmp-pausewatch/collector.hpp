// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One collection of evidence about one VM: the host first, then QMP, and what touches storage only when every
// file has answered a helper process. Each step has a deadline; the record `collected` ends it.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tools/qmp-pausewatch/context.hpp"

namespace vmwhy::qmp_pausewatch {

class VmWatch;

/// What looking at the files of a VM's nodes came to.
struct Reach {
  bool all_reached = true;
  std::string reason;  ///< Which file, and how long it was waited for.
  int unreached = 0;
};

/// Looks at every file known of the VM, once per file, and records a node_file for each of its nodes. The
/// handler is called once, from the io_context or at once where there is nothing to look at.
void reach_nodes(Context& context, VmWatch& vm, std::function<void(const Reach&)> handler);

/// Calls `handler` after `delay`.
void run_later(Context& context, std::chrono::nanoseconds delay, std::function<void()> handler);

class Collector : public std::enable_shared_from_this<Collector> {
 public:
  /// @param done  Called once, not from within start().
  Collector(Context& context, VmWatch& vm, std::function<void()> done);

  void start();
  /// Writes `collected` now, with what is missing. `done` is not called any more.
  void abandon();
  /// Its VM goes away: nothing is written any more.
  void drop() { finished_ = true; }
  /// It began after the process had ended: what it saw is all there will be.
  bool saw_end() const { return saw_end_; }

 private:
  void look_at_host();
  void ask_owner();
  void ask_monitor();
  /// Records that these were not asked.
  void withhold(std::span<const char* const> commands, const std::string& reason);
  void ask_storage(const Reach& reach);
  void ask(const char* command);
  void step_begins() { ++open_steps_; }
  void step_ended();
  void finish(const std::string& missing);
  /// Empty: the monitor may be asked.
  std::string why_not_ask() const;

  Context& context_;
  VmWatch& vm_;
  std::function<void()> done_;
  std::uint64_t began_ns_ = 0;
  int open_steps_ = 0;
  std::uint32_t overdue_ = 0;
  std::string missing_;
  bool saw_end_ = false;
  bool finished_ = false;
};

}  // namespace vmwhy::qmp_pausewatch
