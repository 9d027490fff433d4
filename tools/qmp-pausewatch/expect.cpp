// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/expect.hpp"

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <cerrno>

#include "core/text.hpp"

namespace vmwhy::qmp_pausewatch {
namespace {

bool at_least(causes::Confidence confidence, std::string_view wanted) {
  for (const auto known :
       {causes::Confidence::unknown, causes::Confidence::likely, causes::Confidence::proven})
    if (causes::to_string(known) == wanted) return confidence >= known;
  return false;
}

bool detail_is(const boost::json::object& details, std::string_view key, std::string_view wanted) {
  const auto* value = details.if_contains(key);
  if (!value) return false;
  if (const auto* text = value->if_string()) return std::string_view(*text) == wanted;
  return boost::json::serialize(*value) == wanted;
}

}  // namespace

Result<Expectation> Expectation::parse(std::string_view text) {
  const auto parts = split(text, '/');
  Expectation out;
  out.cause = parts.empty() ? "" : std::string(parts[0]);
  if (out.cause.empty() || out.cause.find('=') != std::string::npos)
    return system_failure(EINVAL, "--expect " + printable(text),
                          "begin with a cause: storage-full/node=disk0");
  for (std::size_t i = 1; i < parts.size(); ++i) {
    // A value may hold slashes: a part without '=' goes on with the value before it.
    const auto equals = parts[i].find('=');
    if (equals == std::string_view::npos || equals == 0) {
      if (out.details.empty())
        return system_failure(EINVAL, "--expect " + printable(text), "what follows the cause is key=value");
      out.details.back().second += "/" + std::string(parts[i]);
      continue;
    }
    out.details.emplace_back(parts[i].substr(0, equals), parts[i].substr(equals + 1));
  }
  return out;
}

bool Expectation::matches(const causes::Incident& incident) const {
  if (cause != "any" && cause != incident.verdict.cause) return false;
  for (const auto& [key, value] : details) {
    if (key == "confidence" && at_least(incident.verdict.confidence, value)) continue;
    if (key == "vm" && value == incident.vm.name) continue;
    if (key == "kind" && value == causes::to_string(incident.kind)) continue;
    if (key == "run_state" && value == incident.run_state) continue;
    if (detail_is(incident.verdict.details, key, value)) continue;
    return false;
  }
  return true;
}

std::string Expectation::to_string() const {
  std::string out = cause;
  for (const auto& [key, value] : details) out.append("/").append(key).append("=").append(value);
  return out;
}

}  // namespace vmwhy::qmp_pausewatch
