// SPDX-License-Identifier: BSD-2-Clause
#include "causes/inside.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "causes/rule.hpp"
#include "timeline/windows.hpp"

namespace vmwhy::causes {
namespace {

using timeline::QemuCall;

/// How far the conversion of QEMU's stamp may be off.
constexpr std::uint64_t kStampError = timeline::kSecond / 50;
/// A monitor's command calls vm_stop at once; a busy host may take the CPU away in between.
constexpr std::uint64_t kAtOnce = timeline::kSecond;
constexpr std::size_t kShownCallers = 5;

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// The setting of the run state that the VM stands in; null: not seen.
const QemuCall* state_set(const Case& c) {
  for (auto call = c.vm.calls.rbegin(); call != c.vm.calls.rend(); ++call) {
    if (call->function != "runstate_set" || call->time_ns > c.begin + kStampError) continue;
    // The VM ran when it stopped: what was set then is what this stop set.
    return call->value == "running" || call->time_ns < c.from ? nullptr : &*call;
  }
  return nullptr;
}

}  // namespace

StopPath find_stop(const Case& c) {
  StopPath out;
  const QemuCall* set = c.is_pause() ? state_set(c) : nullptr;
  if (set == nullptr) return out;
  const QemuCall* command = nullptr;
  bool by_hmp = false;
  for (const QemuCall& call : c.vm.calls) {
    if (call.time_ns < c.from || call.time_ns > set->time_ns) continue;
    if (call.function == "runstate_set" && &call != set) {
      // Of an earlier stop.
      out.origin = nullptr;
      command = nullptr;
      by_hmp = false;
    } else if (is_one_of(call.function, {"hmp_stop", "qmp_stop"})) {
      by_hmp = call.function == "hmp_stop" || (by_hmp && command->tid == call.tid);
      command = &call;
    } else if (is_one_of(call.function, {"vm_stop", "vm_stop_force_state", "qemu_system_vmstop_request"}) &&
               out.origin == nullptr && call.value == set->value) {
      out.origin = &call;
    }
  }
  if (out.origin == nullptr) out.origin = set;
  const bool led_here = command != nullptr && command->tid == out.origin->tid &&
                        command->time_ns <= out.origin->time_ns &&
                        out.origin->time_ns <= command->time_ns + kAtOnce;
  if (led_here) out.command = command;
  out.by_hmp = (led_here && by_hmp) || out.origin->called_by("handle_hmp_command");
  return out;
}

bool follows(const Case& c, std::string_view function, std::uint64_t since) {
  const auto found = c.vm.sensors.find("qemu");
  if (found == c.vm.sensors.end() || found->second.state != trace::SensorState::on) return false;
  if (found->second.time_ns > since) return false;
  const auto& lost = c.timeline.host().lost;
  const bool lost_here = std::any_of(lost.begin(), lost.end(), [&](const timeline::Lost& loss) {
    return loss.source == "qemu" && loss.last_ns + kAtOnce >= since && loss.time_ns <= c.begin + kAtOnce;
  });
  if (lost_here) return false;
  // The sensor's sentence names what it did not find.
  const std::string_view detail = found->second.detail;
  if (detail.size() >= timeline::kLongestDetail) return false;
  const std::size_t missing = detail.find("it has no ");
  return missing == std::string_view::npos || !contains_word(detail.substr(missing), function);
}

bool stopped_by_no_monitor(const Case& c, const StopPath& path) {
  return path && path.command == nullptr && !path.by_hmp && !path.origin->callers.empty() &&
         path.origin->function == "vm_stop" && !path.origin->called_by("qmp_stop") &&
         !path.origin->called_by("qmp_marshal_stop") && follows(c, "qmp_stop", path.origin->time_ns) &&
         follows(c, "hmp_stop", path.origin->time_ns);
}

Evidence call_evidence(const QemuCall& call) {
  std::string text = fmt::format("{}({})", call.function, call.value);
  std::size_t shown = 0;
  for (const std::string& caller : call.callers) {
    const std::string_view name = std::string_view(caller).substr(0, caller.find('+'));
    // A function without a name stands as the executable's name and its place in it.
    if (name.find('-') != std::string_view::npos || shown++ >= kShownCallers) continue;
    text += fmt::format(" ← {}", name);
  }
  return {call.time_ns, "uprobe", text + fmt::format(", in thread {}", call.tid)};
}

const QemuCall* guest_reset(const timeline::VmTracks& vm, std::uint64_t from, std::uint64_t until) {
  for (const QemuCall& call : vm.calls)
    if (call.function == "qemu_system_reset_request" && call.value == "guest-reset" && call.time_ns >= from &&
        call.time_ns <= until)
      return &call;
  return nullptr;
}

}  // namespace vmwhy::causes
