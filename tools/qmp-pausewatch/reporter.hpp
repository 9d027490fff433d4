// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Prints what the analysis says: a report when an incident's evidence is there, a corrected one if the
// verdict is another at its end, a short block when it ends.

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <map>
#include <string>

#include "causes/analysis.hpp"
#include "render/render.hpp"

namespace vmwhy::qmp_pausewatch {

class Reporter {
 public:
  Reporter(std::ostream& out, bool json, bool quiet, bool color, const causes::Analysis& analysis);

  /// Called for each incident as it was just printed.
  std::function<void(const causes::Incident&)> on_report;

  void handle(const causes::Change& change);
  /// Once a second: facts that came late may have changed the verdict on an incident that has just ended.
  void look_back();
  /// Reports what is open or unreported at the end of the run.
  void finish();

  std::uint64_t reported() const { return reported_; }

 private:
  struct Told {
    bool reported = false;
    bool closed = false;
    bool ended = false;  ///< Its end was reported.
    int age = 0;         ///< Seconds since then.
    int looks = 0;       ///< Seconds since it was reported.
    std::string cause, confidence, summary, run_state;
  };
  void report(std::uint64_t id, Told& told, const char* what);
  void close(std::uint64_t id, Told& told);
  /// Reports again if the verdict is another one now.
  void correct(std::uint64_t id, Told& told);
  void print(const causes::Incident& incident, const char* what);

  std::ostream& out_;
  const bool json_;
  const bool quiet_;
  render::TextStyle style_;
  const causes::Analysis& analysis_;
  std::map<std::uint64_t, Told> told_;
  std::uint64_t reported_ = 0;
};

}  // namespace vmwhy::qmp_pausewatch
