// SPDX-License-Identifier: BSD-2-Clause
#include "timeline/qemu_track.hpp"

#include <algorithm>

#include "core/text.hpp"
#include "trace/tap_records.hpp"

namespace vmwhy::timeline {
namespace {

constexpr std::size_t kLongestName = 128;
constexpr std::size_t kMostLines = 32;

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> out;
  for (const std::string_view line : split(text, '\n'))
    if (!line.empty() && out.size() < kMostLines) out.emplace_back(line.substr(0, kLongestName));
  return out;
}

}  // namespace

bool QemuCall::called_by(std::string_view name) const {
  return std::any_of(callers.begin(), callers.end(), [&](const std::string& caller) {
    return std::string_view(caller).substr(0, caller.find('+')) == name;
  });
}

const QemuCall& add_qemu_call(VmTracks& vm, const trace::RecordView& record) {
  const auto fixed = record.as<trace::QemuCall>();
  const auto texts = split(record.text, '\0');
  const auto text = [&](std::size_t i) { return i < texts.size() ? texts[i] : std::string_view(); };
  QemuCall call;
  call.time_ns = record.header.time_ns;
  call.tid = fixed.tid;
  call.arguments = std::to_array(fixed.arguments);
  call.function = text(0).substr(0, kLongestName);
  call.value = text(1).substr(0, kLongestName);
  call.strings = lines_of(text(2));
  call.callers = lines_of(text(3));
  // A storm of errors must not cost the stop that it led to.
  const bool error = call.function == "blk_error_action" || call.function == "qapi_event_send_block_io_error";
  return (error ? vm.block_calls : vm.calls).add(std::move(call));
}

void add_owner_state(VmTracks& vm, const trace::RecordView& record) {
  const auto texts = split(record.text, '\0');
  if (texts.size() < 2 || texts[1].empty()) return;
  vm.owner_states.add({record.header.time_ns, std::string(texts[0].substr(0, kLongestName)),
                       std::string(texts[1].substr(0, kLongestName))});
}

}  // namespace vmwhy::timeline
