// SPDX-License-Identifier: BSD-2-Clause
#include <charconv>

#include "qmp/client.hpp"

namespace vmwhy::qmp {
namespace {

Failure bad(std::string_view text, const char* why) {
  return {make_error_code(Errc::bad_address), "\"" + std::string(text) + "\" is no address: " + why, {}, {}};
}

bool is_port(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value >= 1 && value <= 65535;
}

Result<Address> unix_address(std::string_view whole, std::string_view path) {
  if (path.empty() || path == "@") return bad(whole, "no path");
  if (path.find('\0') != std::string_view::npos) return bad(whole, "a NUL in the path");
  Address out;
  out.kind = Address::Kind::unix_socket;
  out.path = std::string(path);
  return out;
}

Result<Address> tcp_address(std::string_view whole, std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad(whole, "no port");
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (!is_port(port)) return bad(whole, "the port is no number from 1 to 65535");
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  else if (host.find(':') != std::string_view::npos)
    return bad(whole, "an IPv6 address needs brackets");
  Address out;
  out.kind = Address::Kind::tcp;
  out.host = host.empty() ? "127.0.0.1" : std::string(host);
  out.port = std::string(port);
  return out;
}

}  // namespace

Result<Address> Address::parse(std::string_view text) {
  if (text.empty()) return bad(text, "empty");
  if (text.starts_with("unix:")) return unix_address(text, text.substr(5));
  if (text.starts_with("tcp:")) return tcp_address(text, text.substr(4));
  if (text.front() == '@' || text.find('/') != std::string_view::npos) return unix_address(text, text);
  const std::size_t colon = text.rfind(':');
  if (colon != std::string_view::npos) return tcp_address(text, text);
  return unix_address(text, text);
}

std::string Address::to_string() const {
  if (kind == Kind::tcp)
    return "tcp:" + (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" + port;
  if (path.starts_with("@") || path.find('/') != std::string::npos) return path;
  return "unix:" + path;
}

}  // namespace vmwhy::qmp
