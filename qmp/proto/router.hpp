// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Which reply belongs to which command. Every command carries an id of ours; a reply with an id that is not
// outstanding is dropped and counted.

#include <boost/json/value.hpp>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

namespace vmwhy::qmp::proto {

/// A command on its way.
struct Pending {
  std::uint64_t id = 0;
  std::string command;
  std::uint64_t sent_ns = 0;      ///< The caller's clock for stamps.
  std::uint64_t deadline_ns = 0;  ///< The caller's clock for deadlines.
  bool overdue = false;           ///< Its deadline passed and was reported; it is still waited for.
};

class Router {
 public:
  /// QEMU reads no further than this many commands ahead of what it has answered.
  static constexpr std::size_t kMaxInFlight = 8;

  /// Whether one more command may be sent. Commands that are overdue still count: QEMU holds them.
  bool may_send() const { return pending_.size() < kMaxInFlight; }
  /// @return the id to send it with.
  std::uint64_t add(std::string command, std::uint64_t sent_ns, std::uint64_t deadline_ns);

  /// The command that a reply with this id answers; it is no longer outstanding. A null id (QEMU could not
  /// read ours, e.g. after a parse error) belongs to the only command outstanding, if there is just one.
  std::optional<Pending> match(const boost::json::value& id);

  /// Marks commands whose deadline is not after `now_ns` as overdue, and returns those newly marked.
  std::vector<Pending> expire(std::uint64_t now_ns);
  /// The earliest deadline of the commands that are not overdue.
  std::optional<std::uint64_t> next_deadline() const;

  std::size_t in_flight() const { return pending_.size(); }
  /// Replies dropped since their id was not outstanding.
  std::uint64_t dropped() const { return dropped_; }
  /// Forgets all commands outstanding, and returns them.
  std::vector<Pending> clear();

 private:
  std::deque<Pending> pending_;
  std::uint64_t next_id_ = 1;
  std::uint64_t dropped_ = 0;
};

}  // namespace vmwhy::qmp::proto
