// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/failure.hpp"

#include <cstdio>
#include <stdexcept>

namespace vmwhy::qmp {
namespace {

class Category final : public boost::system::error_category {
 public:
  const char* name() const noexcept override { return "qmp"; }
  std::string message(int value) const override {
    switch (static_cast<Errc>(value)) {
      case Errc::no_socket:
        return "no such socket";
      case Errc::no_permission:
        return "permission denied";
      case Errc::connect_timeout:
        return "connecting took too long";
      case Errc::not_qmp:
        return "not a QMP monitor";
      case Errc::greeting_missing:
        return "no QMP greeting";
      case Errc::monitor_held:
        return "held by another client";
      case Errc::negotiation_timeout:
        return "no reply to qmp_capabilities";
      case Errc::reply_timeout:
        return "no reply within the deadline";
      case Errc::error_reply:
        return "QEMU answered with an error";
      case Errc::malformed:
        return "not a QMP message";
      case Errc::line_too_long:
        return "line too long";
      case Errc::disconnected:
        return "not connected";
      case Errc::not_allowed:
        return "not a read-only command";
      case Errc::bad_address:
        return "not usable";
      case Errc::system:
        return "system error";
    }
    return "unknown error";
  }
};

// The peer's text may come from a hostile QEMU: nothing in it may reach a terminal as a control character.
// Bytes above 0x7f are escaped too, which covers invalid UTF-8 and bidirectional overrides without a decoder.
std::string quoted(const std::string& text) {
  constexpr std::size_t kLimit = 1024;
  std::string out = "\"";
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i == kLimit) {
      out += "...";
      break;
    }
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x20 || c >= 0x7f) {
      char hex[8];
      std::snprintf(hex, sizeof hex, "\\x%02x", c);
      out += hex;
    } else {
      out += text[i];
    }
  }
  return out + '"';
}

// Their context is the whole sentence already.
bool says_all(const boost::system::error_code& code) {
  return code == Errc::no_socket || code == Errc::greeting_missing || code == Errc::monitor_held ||
         code == Errc::negotiation_timeout || code == Errc::bad_address;
}

}  // namespace

const boost::system::error_category& category() noexcept {
  static const Category instance;
  return instance;
}

boost::system::error_code make_error_code(Errc e) noexcept {
  return {static_cast<int>(e), category()};
}

std::string to_string(const Failure& failure) {
  std::string out = failure.context;
  if (failure.code && (out.empty() || !says_all(failure.code))) {
    if (!out.empty()) out += ": ";
    out += failure.code.message();
  }
  if (!failure.peer_class.empty() || !failure.peer_text.empty()) {
    out += ": ";
    if (!failure.peer_class.empty() && failure.peer_class != "GenericError")
      out += quoted(failure.peer_class) + " ";
    out += quoted(failure.peer_text);
  }
  return out;
}

void throw_exception_from_error(const Failure& failure, const boost::source_location& /*loc*/) {
  throw std::logic_error("value() of a failed result: " + to_string(failure));
}

}  // namespace vmwhy::qmp
