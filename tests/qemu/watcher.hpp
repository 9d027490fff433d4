// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The program under test in a drill: `qmp-pausewatch --json -o TRACE` on the monitors of some VMs, what it
// said, and what vm-why says of its trace afterwards.

#include <gtest/gtest.h>

#include <boost/json/object.hpp>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/child_process.hpp"
#include "tests/support/qemu.hpp"
#include "tests/support/temp_dir.hpp"

namespace vmwhy::test {

/// One element of "incidents" of a verdict document.
using IncidentJson = boost::json::object;

class Watcher {
 public:
  /// Starts it, and returns when it watches every VM.
  Watcher(const TempDir& dir, std::initializer_list<QemuProcess*> vms,
          const std::vector<std::string>& options = {});

  /// Without a monitor of a VM: `targets` are -n, -p or -a. Returns when `said` stands on its stderr.
  Watcher(const TempDir& dir, const std::vector<std::string>& targets, const std::string& said);

  /// Waits for a report on an incident that satisfies `wanted`. Fails the test, with all that the watcher
  /// said, when none comes; the incident is empty then.
  IncidentJson incident(const std::function<bool(const IncidentJson&)>& wanted);
  /// The first report of kind "pause", "stall", "exit" or "event", of VM `vm` where one is named. What was so
  /// already when the watch began is passed over: every VM of a test waits for its first `cont` then.
  IncidentJson incident(std::string_view kind, std::string_view vm = {});
  /// The same, once it has ended.
  IncidentJson ended(std::string_view kind);

  /// Ends the watch by SIGINT, expects that it ends well, and that vm-why tells from the trace alone what the
  /// last report on each incident told. Returns vm-why's incidents.
  std::vector<IncidentJson> finish();

  /// Reports so far, oldest first; an incident may come several times.
  const std::vector<IncidentJson>& reports() const { return reports_; }
  const std::string& trace() const { return trace_; }
  ChildProcess& process() { return child_; }

 private:
  void take(std::string_view line);
  std::string said();

  std::string trace_;
  ChildProcess child_;
  std::vector<IncidentJson> reports_;
};

/// The incidents of `vm-why --json FILE…`; `exit_code` must be 0.
std::vector<IncidentJson> vm_why(const std::vector<std::string>& files);
/// The text of `vm-why FILE`.
std::string vm_why_text(const std::string& file);

/// A failure if one of the incidents is of that kind and began in the watch: every VM waits for its first
/// `cont` when the watch begins, which is a pause too.
testing::AssertionResult none_of_kind(const std::vector<IncidentJson>& incidents, std::string_view kind);

// ---- what a verdict must say

std::string text_of(const IncidentJson& incident, std::string_view key);
/// A member of its details; null if there is none.
const boost::json::value& detail_of(const IncidentJson& incident, std::string_view key);

/// A failure unless `incident` has that cause, and at most and at least that confidence.
testing::AssertionResult is_verdict(const IncidentJson& incident, std::string_view cause,
                                    std::string_view confidence);
/// A failure unless one piece of evidence of `source` contains `text`.
testing::AssertionResult has_evidence(const IncidentJson& incident, std::string_view source,
                                      std::string_view text);
/// A failure unless `cause` is among those that were ruled out.
testing::AssertionResult rules_out(const IncidentJson& incident, std::string_view cause);
/// A failure unless a line of the remedy contains `text`.
testing::AssertionResult has_remedy(const IncidentJson& incident, std::string_view text);

}  // namespace vmwhy::test
