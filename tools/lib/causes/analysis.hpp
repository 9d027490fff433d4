// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The engine: records in, incidents and verdicts out. Live tools and vm-why run this same code over the same
// records. No I/O, no clocks, no threads: it knows only what records say.

#include <boost/json/object.hpp>
#include <cstdint>
#include <memory>
#include <vector>

#include "causes/verdict.hpp"
#include "trace/record.hpp"

namespace vmwhy::causes {

/// Something about an incident that a live tool acts on.
struct Change {
  enum class What {
    opened,     ///< Begin collecting evidence.
    collected,  ///< Its evidence is complete: a `collected` record came whose collection began after the
                ///< incident had been opened. Judge and report it. May come after `closed`.
    closed,     ///< It ended: judge again, and report what is new.
  };
  What what;
  std::uint64_t incident;
  std::uint32_t vm;
};

class Analysis {
 public:
  Analysis();
  ~Analysis();

  /// Meta of the trace: host, tool, VMs. May come several times.
  void add_meta(const boost::json::object& meta);

  /// Records in the order in which they were recorded (times may go back a little between sources).
  void add(const trace::RecordView& record);

  /// What happened to incidents since the last call.
  std::vector<Change> take_changes();

  /// No more records will come. Incidents stay open where nothing closed them.
  void finish();

  /// Judged on all records so far. Errors: none; an id that is not there gives an incident with id 0.
  Incident judge(std::uint64_t incident) const;

  /// Every incident, judged, by begin.
  std::vector<Incident> judge_all() const;

  TraceSummary summary() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vmwhy::causes
