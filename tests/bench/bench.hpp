// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Benchmarks register themselves and report figures; main.cpp prints each as one JSON line:
// {"bench": "...", "figure": "...", "value": N, "unit": "...", "goal": N or null, "peer": "...",
//  "peer_value": N or null}, or {"bench": "...", "skipped": "needs NAME: reason"}.

#include <optional>
#include <string>

namespace vmwhy::bench {

struct Figure {
  std::string figure;  ///< "p99 from STOP to verdict"
  double value = 0;
  std::string unit;                  ///< "ms", "records/s", "bytes/record"
  std::optional<double> goal;        ///< In the same unit.
  std::string peer;                  ///< What it is compared with: "python3 json"; empty: nothing.
  std::optional<double> peer_value;  ///< The peer's figure, in the same unit, measured in the same run.
};

class Report {
 public:
  explicit Report(std::string bench) : bench_(std::move(bench)) {}

  /// Prints the figure at once.
  void add(const Figure& figure);

  /// Says why nothing was measured. `capability` as in VMWHY_NEEDS; true: it is missing, return.
  bool needs(const char* capability);
  /// Says why nothing was measured: "needs NAME: reason".
  void skip(const std::string& why);

 private:
  std::string bench_;
};

using Function = void (*)(Report&);

/// Registers itself before main(). Names are unique.
struct Benchmark {
  Benchmark(const char* name, Function function);
};

}  // namespace vmwhy::bench

/// VMWHY_BENCH(trace_write) { report.add({.figure = "rate", .value = n / s, .unit = "records/s"}); }
#define VMWHY_BENCH(name)                                                        \
  static void bench_##name(::vmwhy::bench::Report& report);                      \
  static const ::vmwhy::bench::Benchmark registered_##name(#name, bench_##name); \
  static void bench_##name([[maybe_unused]] ::vmwhy::bench::Report& report)
