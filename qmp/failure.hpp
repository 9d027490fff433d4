// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// How everything in qmp/ fails: a code that a program can branch on, and a sentence for a person.
// The peer's own words (the "desc" of a QMP error reply) never enter the sentence: they stand in a field of
// their own, since they come from a QEMU that the guest may own.

#include <boost/system/error_code.hpp>
#include <boost/system/result.hpp>
#include <string>

namespace vmwhy::qmp {

/// What can go wrong between us and a monitor. Values are stable within a release, never stored.
enum class Errc {
  no_socket = 1,     ///< The path does not exist, or nobody listens on it.
  no_permission,     ///< connect(2) said EACCES or EPERM.
  connect_timeout,   ///< connect(2) did not finish: the listener's backlog is full.
  not_qmp,           ///< Something answers, but not with a QMP greeting.
  greeting_missing,  ///< Connected, and no greeting: QEMU hangs, or a client that is not to be seen holds the
                     ///< monitor.
  monitor_held,      ///< Connected, and no greeting, for another client holds the monitor.
  negotiation_timeout,  ///< Greeting came, the reply to qmp_capabilities did not: the main loop is stuck.
  reply_timeout,        ///< A command's deadline passed without a reply.
  error_reply,          ///< QEMU answered with an error; see Failure::peer_class and peer_text.
  malformed,            ///< A line that is not a QMP message.
  line_too_long,        ///< A line above the splitter's limit.
  disconnected,         ///< The peer closed the connection, or a read or write failed.
  not_allowed,          ///< The command is not on the read-only allow-list.
  bad_address,          ///< A socket address that cannot be parsed.
  system,               ///< Any other errno; see Failure::code.
};

const boost::system::error_category& category() noexcept;
boost::system::error_code make_error_code(Errc e) noexcept;

struct Failure {
  boost::system::error_code code;  ///< An Errc, or an errno of the system category.
  std::string context;             ///< One sentence that names the thing, e.g. the socket's path.
  std::string peer_class;          ///< error_reply only: QEMU's "class".
  std::string peer_text;           ///< error_reply only: QEMU's "desc", unescaped and untrusted.
};

/// The sentence and, where there is one, the peer's text in quotes, control characters escaped.
std::string to_string(const Failure& failure);

template <class T>
using Result = boost::system::result<T, Failure>;

// boost::system::result asks for this when value() is called on a failure; it is a bug of the caller.
[[noreturn]] void throw_exception_from_error(const Failure& failure, const boost::source_location& loc);

}  // namespace vmwhy::qmp

template <>
struct boost::system::is_error_code_enum<vmwhy::qmp::Errc> : std::true_type {};
