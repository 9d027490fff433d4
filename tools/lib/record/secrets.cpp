// SPDX-License-Identifier: BSD-2-Clause
#include "record/secrets.hpp"

#include <algorithm>
#include <array>

namespace vmwhy::record {
namespace {

constexpr std::string_view kMask = "***";

/// Replaces what begins at `begin` up to one of `ends`.
std::size_t mask_until(std::string& text, std::size_t begin, std::string_view ends) {
  const std::size_t end = std::min(text.find_first_of(ends, begin), text.size());
  if (end > begin) text.replace(begin, end - begin, kMask);
  return begin + kMask.size();
}

void mask_urls(std::string& text) {
  for (std::size_t at = text.find("://"); at != std::string::npos; at = text.find("://", at)) {
    at += 3;
    const std::size_t end = std::min(text.find_first_of("\"/ ,\\", at), text.size());
    const std::size_t sign = text.rfind('@', end);
    if (sign == std::string::npos || sign < at || sign >= end) continue;
    const std::size_t colon = text.find(':', at);
    if (colon < sign) text.replace(colon + 1, sign - colon - 1, kMask);
  }
}

void mask_after(std::string& text, std::string_view key, std::string_view ends) {
  for (std::size_t at = text.find(key); at != std::string::npos; at = text.find(key, at))
    at = mask_until(text, at + key.size(), ends);
}

}  // namespace

std::string mask_secrets(std::string_view json) {
  std::string text(json);
  if (text.find("://") != std::string::npos) mask_urls(text);
  // rbd:pool/image:id=admin:key=SECRET:mon_host=…
  mask_after(text, ":key=", ":\"\\, ");
  constexpr std::array kMembers = {"\"password\": \"",   "\"password\":\"",        "\"key\": \"",
                                   "\"passphrase\": \"", "\\\"password\\\": \\\"", "\\\"password\\\":\\\""};
  for (const std::string_view member : kMembers) mask_after(text, member, "\"\\");
  return text;
}

}  // namespace vmwhy::record
