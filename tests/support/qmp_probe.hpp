// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The tests' own QMP client: blocking, small, and nothing of the code under test. Use from one thread.

#include <boost/json/object.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/unique_fd.hpp"
#include "wait.hpp"

namespace vmwhy::test {

class QmpProbe {
 public:
  QmpProbe() = default;

  /// Connects to a Unix socket and negotiates (`oob`: with out-of-band execution).
  /// @throws std::runtime_error when that fails within the deadline.
  explicit QmpProbe(const std::string& socket, bool oob = false, TimePoint deadline = deadline_in());

  /// Sends a command and returns its whole reply ("return" or "error").
  /// @throws std::runtime_error when the connection breaks or the deadline passes.
  boost::json::object call(std::string_view command, const boost::json::object& arguments = {},
                           TimePoint deadline = deadline_in());
  /// The same by exec-oob.
  boost::json::object call_oob(std::string_view command, const boost::json::object& arguments = {});

  /// Sends a command and does not wait for its reply, which is dropped when it comes.
  void send(std::string_view command, const boost::json::object& arguments = {});

  /// The next event of that name that no earlier call returned; events before it stay for others. Nothing:
  /// the deadline passed or the connection ended.
  std::optional<boost::json::object> wait_event(std::string_view name, TimePoint deadline = deadline_in());

  /// Names of all events so far, in the order of arrival.
  const std::vector<std::string>& event_names() const { return names_; }

  void close() { fd_.reset(); }

 private:
  boost::json::object exchange(const char* key, std::string_view command,
                               const boost::json::object& arguments, TimePoint deadline);
  void send_message(const boost::json::object& message);
  /// One message, events included; nothing: deadline or end.
  std::optional<boost::json::object> receive(TimePoint deadline);
  void keep(boost::json::object event);

  UniqueFd fd_;
  std::string buffer_;
  std::uint64_t last_id_ = 0;
  std::vector<boost::json::object> events_;
  std::vector<std::string> names_;
};

}  // namespace vmwhy::test
