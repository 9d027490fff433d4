// SPDX-License-Identifier: BSD-2-Clause
// What befell the host as a whole: it slept, or was too hot.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "causes/rules/rules.hpp"
#include "causes/rules/threads.hpp"
#include "clock/clock.hpp"
#include "core/text.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {
namespace {

constexpr std::size_t kLines = 4;

std::string human(std::uint64_t ns) {
  return human_duration(static_cast<std::int64_t>(std::min<std::uint64_t>(ns, INT64_MAX)));
}

/// Lines of the kernel log from two seconds before the incident to a second after it.
void add_lines(const Case& c, bool (*wanted)(std::string_view), Finding& finding) {
  std::size_t listed = 0;
  for (const timeline::KernelLine* line :
       c.kernel_lines(2 * timeline::kSecond, c.until - c.begin + timeline::kSecond)) {
    if (listed >= kLines || !wanted(line->text)) continue;
    finding.evidence.push_back(kernel_evidence(*line));
    ++listed;
  }
}

bool tells_of_suspend(std::string_view line) {
  return contains(line, "PM: suspend entry") || contains(line, "PM: suspend exit") ||
         contains(line, "PM: hibernation:");
}

/// As drivers/thermal/intel/therm_throt.c has it.
bool tells_of_heat(std::string_view line) {
  return contains(line, "temperature") && contains(line, "above threshold") && contains(line, "throttled");
}

}  // namespace

Opinion judge_host_suspended(const Case& c) {
  if (c.incident.kind != Kind::stall) return nothing();
  const bool topic = c.incident.topic == timeline::Topic::host_suspended;
  std::uint64_t slept = 0;
  Finding finding;
  for (const timeline::Suspend& suspend : c.timeline.host().suspends) {
    const std::uint64_t part =
        topic && suspend.time_ns == c.until
            ? suspend.length_ns
            : clock::Sleep{suspend.before_ns, suspend.time_ns, suspend.length_ns}.least_within(c.begin,
                                                                                               c.until);
    if (part == 0) continue;
    slept = saturated(slept, part);
    finding.evidence.push_back(
        {suspend.time_ns, "clock",
         fmt::format(
             "CLOCK_BOOTTIME went on for {} that CLOCK_MONOTONIC did not count, between readings {} apart",
             human(suspend.length_ns), human(suspend.time_ns - suspend.before_ns))});
  }
  if (slept == 0 || slept < (c.until - c.begin) / 2) return nothing();
  finding.confidence = Confidence::proven;
  finding.summary = fmt::format("the host itself slept for {}, and the VM with it", human(slept));
  finding.details["suspended_ns"] = slept;
  add_lines(c, tells_of_suspend, finding);
  finding.not_proved.push_back(
      {"who sent the host to sleep", "see the log of systemd-logind, or of who writes /sys/power/state"});
  finding.remedy.emplace_back(
      "keep a host of VMs awake: systemctl mask sleep.target suspend.target hibernate.target");
  finding.remedy.emplace_back("the guests' clocks stood meanwhile: let them be set (chrony, guest-set-time)");
  return found(std::move(finding));
}

Opinion judge_host_thermal(const Case& c) {
  if (c.incident.kind != Kind::stall || c.incident.topic == timeline::Topic::host_suspended) return nothing();
  Finding finding;
  finding.confidence = Confidence::likely;
  add_lines(c, tells_of_heat, finding);
  std::map<std::uint32_t, std::uint64_t> throttled_ms;
  for (const timeline::CpuThrottle& fact : c.timeline.host().throttles) {
    if (fact.begin_ns() > c.until || fact.time_ns < c.begin) continue;
    auto& sum = throttled_ms[fact.throttle.cpu];
    sum = saturated(sum, std::max(fact.throttle.core_ms, fact.throttle.package_ms));
    if (finding.evidence.size() >= 2 * kLines) continue;
    finding.evidence.push_back(
        {fact.time_ns, "sys",
         fmt::format("CPU {}: its thermal throttle counters grew by {} (core) and {} (package) in {}",
                     fact.throttle.cpu, fact.throttle.core_events, fact.throttle.package_events,
                     human(fact.throttle.window_ns))});
  }
  if (finding.evidence.empty()) return nothing();
  boost::json::array cpus;
  for (const auto& [cpu, ms] : throttled_ms) {
    if (cpus.size() >= 64) break;
    cpus.push_back(boost::json::object{{"cpu", cpu}, {"throttled_ms", ms}});
  }
  if (!cpus.empty()) finding.details["cpus"] = std::move(cpus);
  finding.summary = "CPUs of the host were too hot meanwhile, and their clock was throttled";
  finding.not_proved.push_back(
      {"that the heat makes this stall", "a throttled CPU runs slower, and stops nothing by itself"});
  finding.remedy.emplace_back(
      "see to the host's cooling (fans, air flow, ipmitool sdr); until then give it less to do");
  return found(std::move(finding));
}

}  // namespace vmwhy::causes
