// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// A QMP session as a state machine without I/O: bytes go in, messages and bytes to send come out. Knows the
// order of things (greeting, negotiation, commands and events) and which reply answers what; knows no clock
// but the times it is told. A line that is no QMP message is reported and skipped: the next line is read as
// if nothing had been.

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qmp/proto/line_splitter.hpp"
#include "qmp/proto/message.hpp"
#include "qmp/proto/router.hpp"

namespace vmwhy::qmp::proto {

enum class Phase {
  greeting,     ///< Nothing came yet.
  negotiating,  ///< The greeting came; qmp_capabilities has no answer yet.
  ready,
  failed,  ///< The peer is no QMP monitor, or refused to negotiate. Nothing more is read.
};

/// What one line meant.
struct Incoming {
  enum class Kind {
    greeting,    ///< Send what take_output() gives.
    negotiated,  ///< The reply to qmp_capabilities: the session is ready.
    event,
    reply,       ///< Return or error; `command` tells to what.
    unexpected,  ///< A reply to nothing outstanding, or a message of no known kind.
    unparsable,  ///< No QMP message, or a line above the limit; see `failure`.
    not_qmp,     ///< The first line was no greeting, or negotiation was refused; see `failure`.
  };
  Kind kind = Kind::unparsable;
  std::string_view line;  ///< Valid until the next call, and while the fed bytes are.
  Message message;
  Pending command;  ///< negotiated, reply, and not_qmp after a refused negotiation.
  Failure failure;  ///< unparsable, not_qmp.
};

struct SessionOptions {
  std::size_t max_line_bytes = 64u << 20;
  bool want_oob = false;  ///< Enable "oob" if the greeting offers it.
};

class Session {
 public:
  explicit Session(const SessionOptions& options);

  /// Takes bytes from the front of `bytes` up to the end of the next line; nothing if no line is complete.
  /// @param now_ns  the stamp, and @param deadline_ns the deadline, of a qmp_capabilities that this causes.
  std::optional<Incoming> next(std::string_view& bytes, std::uint64_t now_ns, std::uint64_t deadline_ns);

  /// Whether a command may be sent now.
  bool may_send() const { return phase_ == Phase::ready && router_.may_send(); }
  /// The line to send for a command. Only while may_send().
  /// @param id  set to the command's id.
  std::string send(std::string_view command, const boost::json::object& arguments, std::uint64_t now_ns,
                   std::uint64_t deadline_ns, std::uint64_t& id, bool out_of_band = false);
  /// What the session itself has to send; empty if nothing.
  std::string take_output();

  Phase phase() const { return phase_; }
  bool oob() const { return oob_; }
  const boost::json::object& version() const { return version_; }
  Router& router() { return router_; }
  const Router& router() const { return router_; }
  /// Bytes of a line that is not complete.
  std::size_t pending_bytes() const { return splitter_.pending(); }

 private:
  void handle_greeting(Incoming& incoming, std::uint64_t now_ns, std::uint64_t deadline_ns);
  void handle_reply(Incoming& incoming);
  void handle_bad(Incoming& incoming, Failure failure);

  SessionOptions options_;
  LineSplitter splitter_;
  Router router_;
  Phase phase_ = Phase::greeting;
  bool oob_ = false;
  boost::json::object version_;
  std::string output_;
};

}  // namespace vmwhy::qmp::proto
