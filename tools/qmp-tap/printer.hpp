// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One message as a line: for people, or as JSON (schema vmwhy.qmp/1, see qmp-tap(1)). Decides what --only and
// --slow leave out. Nothing that a QEMU or a client sent reaches a terminal raw.

#include <iosfwd>
#include <string>

#include "qmp/proto/conversation.hpp"
#include "tap/tap.hpp"
#include "tools/qmp-tap/options.hpp"

namespace vmwhy::qmp_tap {

class Printer {
 public:
  Printer(const Options& options, std::ostream& out, bool color)
      : options_(options), out_(out), color_(color) {}

  /// @param json  The message's text, with its secrets masked unless they are to be shown.
  void message(const tap::Wire& wire, const std::string& vm, const qmp::proto::Overheard& message,
               const std::string& json);
  void change(const tap::Wire& wire, const std::string& vm, tap::Change change, std::uint64_t time_ns,
              std::uint64_t waited_ns);
  /// A command that has not been answered for longer than --slow.
  void waiting(const tap::Pending& pending, const std::string& vm, std::uint64_t now_ns);
  /// Converts times: CLOCK_REALTIME minus CLOCK_BOOTTIME, ns.
  void set_clock(std::int64_t realtime_offset_ns) { offset_ns_ = realtime_offset_ns; }

 private:
  bool wanted(const qmp::proto::Overheard& message) const;
  void line(std::uint64_t time_ns, const std::string& who, const std::string& head, std::string_view body,
            const char* color);
  std::string head_json(const tap::Wire& wire, const std::string& vm, std::uint64_t time_ns,
                        std::string_view kind, qmp::proto::Direction direction) const;

  const Options& options_;
  std::ostream& out_;
  bool color_;
  std::int64_t offset_ns_ = 0;
};

}  // namespace vmwhy::qmp_tap
