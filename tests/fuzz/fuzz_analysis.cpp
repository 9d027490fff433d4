// SPDX-License-Identifier: BSD-2-Clause
// Bytes become records (type, vm, time step, fixed part, text), records go through the analysis, and every
// incident is judged and rendered. Nothing may crash, and what is kept stays bounded.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <sstream>

#include "causes/analysis.hpp"
#include "render/render.hpp"
#include "trace/record.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static constexpr std::uint16_t kTypes[] = {1,  2,  3,  4,  16, 17, 32, 33, 34, 48, 49,
                                             50, 51, 52, 53, 54, 55, 99, 88, 89, 90};
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  vmwhy::causes::Analysis analysis;
  std::uint64_t time_ns = 1'000'000'000'000;
  std::size_t at = 0, opened = 0;
  // Record: type, vm, time step (100 ms; the top bit goes back), length of the fixed part, length of the
  // text.
  while (at + 5 <= input.size()) {
    const auto byte = [&](std::size_t n) { return static_cast<std::uint8_t>(input[at + n]); };
    const std::int64_t step = static_cast<std::int8_t>(byte(2)) * 100'000'000LL;
    time_ns = static_cast<std::uint64_t>(static_cast<std::int64_t>(time_ns) + step);
    vmwhy::trace::RecordView record;
    const std::size_t fixed = std::min<std::size_t>(byte(3), input.size() - at - 5);
    const std::size_t text = std::min<std::size_t>(byte(4), input.size() - at - 5 - fixed);
    record.header.type = kTypes[byte(0) % std::size(kTypes)];
    record.header.vm = byte(1) % 4;
    record.header.time_ns = time_ns;
    record.header.size = static_cast<std::uint16_t>(16 + fixed);
    record.fixed = input.substr(at + 5, fixed);
    record.text = input.substr(at + 5 + fixed, text);
    at += 5 + fixed + text;
    analysis.add(record);
    for (const auto& change : analysis.take_changes()) {
      if (++opened > 64) continue;
      analysis.judge(change.incident);
    }
  }
  analysis.finish();
  std::ostringstream out;
  const auto incidents = analysis.judge_all();
  for (const auto& incident : incidents) {
    if (incident.verdict.cause.empty() || incident.id == 0) std::abort();
    vmwhy::render::report(out, incident, {true, 100});
    vmwhy::render::ended(out, incident, {});
    if (incident.verdict.evidence.size() > 128) std::abort();
  }
  vmwhy::render::notes(out, analysis.summary(), {});
  vmwhy::render::to_json(analysis.summary(), incidents);
  return 0;
}
