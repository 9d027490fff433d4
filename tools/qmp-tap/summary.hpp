// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What a run came to, by command: how often, how fast, how many errors; and how often each event. Pure: no
// I/O, no clocks. Memory is bounded, whatever a QEMU calls its events.

#include <array>
#include <boost/json/object.hpp>
#include <cstdint>
#include <iosfwd>
#include <map>
#include <string>

#include "qmp/proto/conversation.hpp"

namespace vmwhy::qmp_tap {

/// Latencies in buckets of a sixteenth of a power of two: 6 % off at most.
class Latencies {
 public:
  void add(std::uint64_t ns);
  std::uint64_t count() const { return count_; }
  std::uint64_t max_ns() const { return max_; }
  /// The latency below which `share` (0 to 1) of them lie, never above max_ns; 0 without any.
  std::uint64_t percentile_ns(double share) const;

 private:
  static constexpr unsigned kSteps = 16;
  std::array<std::uint32_t, 64 * kSteps> buckets_{};
  std::uint64_t count_ = 0, max_ = 0;
};

class Summary {
 public:
  void add(const qmp::proto::Overheard& message);

  struct Command {
    std::uint64_t count = 0, errors = 0;
    Latencies latencies;
  };
  const std::map<std::string, Command>& commands() const { return commands_; }
  const std::map<std::string, std::uint64_t>& events() const { return events_; }
  std::uint64_t messages() const { return messages_; }
  std::uint64_t lost_bytes() const { return lost_bytes_; }

  void print(std::ostream& out) const;
  boost::json::object to_json() const;

 private:
  static constexpr std::size_t kMaxNames = 512;
  std::map<std::string, Command> commands_;
  std::map<std::string, std::uint64_t> events_;
  std::uint64_t messages_ = 0, lost_bytes_ = 0;
};

}  // namespace vmwhy::qmp_tap
