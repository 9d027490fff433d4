// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-tap/summary.hpp"

#include <fmt/format.h>
#include <fmt/ostream.h>

#include <algorithm>
#include <bit>
#include <ostream>
#include <vector>

#include "core/text.hpp"

namespace vmwhy::qmp_tap {
namespace {

constexpr const char* kOthers = "(others)";

template <class Map>
auto& row_of(Map& map, const std::string& name, std::size_t limit) {
  const auto found = map.find(name);
  if (found != map.end()) return found->second;
  return map[map.size() < limit ? name : kOthers];
}

}  // namespace

void Latencies::add(std::uint64_t ns) {
  const unsigned power = ns < kSteps ? 0 : static_cast<unsigned>(std::bit_width(ns)) - 5;
  // Below 16: the number itself; above, its five highest bits.
  const std::uint64_t index = ns < kSteps ? ns : power * kSteps + (ns >> power);
  ++buckets_[std::min<std::uint64_t>(index, buckets_.size() - 1)];
  ++count_;
  max_ = std::max(max_, ns);
}

std::uint64_t Latencies::percentile_ns(double share) const {
  if (count_ == 0) return 0;
  const auto wanted = static_cast<std::uint64_t>(share * static_cast<double>(count_ - 1)) + 1;
  if (wanted >= count_) return max_;
  std::uint64_t seen = 0;
  for (std::uint64_t index = 0; index < buckets_.size(); ++index) {
    seen += buckets_[index];
    if (seen < wanted) continue;
    if (index < 2 * kSteps) return std::min(index, max_);
    const std::uint64_t power = index / kSteps - 1;
    return std::min(((index - power * kSteps) << power) + (std::uint64_t{1} << power) / 2, max_);
  }
  return max_;
}

void Summary::add(const qmp::proto::Overheard& message) {
  using Kind = qmp::proto::Overheard::Kind;
  lost_bytes_ += message.lost_bytes;
  if (message.kind == Kind::gap) return;
  ++messages_;
  if (message.kind == Kind::event) ++row_of(events_, message.event, kMaxNames);
  if (message.kind == Kind::command) ++row_of(commands_, message.command, kMaxNames).count;
  if ((message.kind != Kind::reply && message.kind != Kind::error) || message.command.empty()) return;
  Command& command = row_of(commands_, message.command, kMaxNames);
  if (message.kind == Kind::error) ++command.errors;
  if (message.sent_ns != 0)
    command.latencies.add(message.time_ns - std::min(message.time_ns, message.sent_ns));
}

void Summary::print(std::ostream& out) const {
  std::vector<const std::pair<const std::string, Command>*> rows;
  for (const auto& row : commands_) rows.push_back(&row);
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto* a, const auto* b) { return a->second.count > b->second.count; });
  if (!rows.empty())
    fmt::print(out, "\n{:<36} {:>9} {:>7} {:>12} {:>12} {:>12}\n", "COMMAND", "COUNT", "ERRORS", "P50", "P99",
               "MAX");
  for (const auto* row : rows) {
    const Command& command = row->second;
    const auto text = [&](std::uint64_t ns) {
      return command.latencies.count() == 0 ? std::string("-")
                                            : human_duration(static_cast<std::int64_t>(ns));
    };
    fmt::print(out, "{:<36} {:>9} {:>7} {:>12} {:>12} {:>12}\n", printable(row->first, 36), command.count,
               command.errors, text(command.latencies.percentile_ns(0.5)),
               text(command.latencies.percentile_ns(0.99)), text(command.latencies.max_ns()));
  }
  if (!events_.empty()) fmt::print(out, "\n{:<36} {:>9}\n", "EVENT", "COUNT");
  for (const auto& [name, count] : events_) fmt::print(out, "{:<36} {:>9}\n", printable(name, 36), count);
}

boost::json::object Summary::to_json() const {
  boost::json::array commands, events;
  for (const auto& [name, command] : commands_)
    commands.push_back(boost::json::object{{"command", name},
                                           {"count", command.count},
                                           {"errors", command.errors},
                                           {"answered", command.latencies.count()},
                                           {"p50_ns", command.latencies.percentile_ns(0.5)},
                                           {"p99_ns", command.latencies.percentile_ns(0.99)},
                                           {"max_ns", command.latencies.max_ns()}});
  for (const auto& [name, count] : events_)
    events.push_back(boost::json::object{{"event", name}, {"count", count}});
  return {{"messages", messages_},
          {"lost_bytes", lost_bytes_},
          {"commands", std::move(commands)},
          {"events", std::move(events)}};
}

}  // namespace vmwhy::qmp_tap
