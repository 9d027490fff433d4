// SPDX-License-Identifier: BSD-2-Clause
#include "tap/mask.hpp"

#include <algorithm>
#include <array>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

namespace vmwhy::tap {
namespace {

namespace json = boost::json;

constexpr int kMaxDepth = 64;

bool holds_secret(std::string_view member) {
  constexpr std::array<std::string_view, 9> kMembers = {"password",   "passwd", "passphrase",
                                                        "secret",     "key",    "connect-password",
                                                        "auth-token", "cookie", "token"};
  const std::size_t dot = member.rfind('.');
  if (dot != std::string_view::npos) member.remove_prefix(dot + 1);
  return std::find(kMembers.begin(), kMembers.end(), member) != kMembers.end();
}

// Replaces what begins at `begin` up to one of `ends`.
bool mask_until(std::string& text, std::size_t begin, std::string_view ends) {
  const std::size_t end = std::min(text.find_first_of(ends, begin), text.size());
  if (end == begin || std::string_view(text).substr(begin, end - begin) == kMask) return false;
  text.replace(begin, end - begin, kMask);
  return true;
}

// "scheme://user:password@host": the password.
bool mask_urls(std::string& text) {
  bool masked = false;
  for (std::size_t at = text.find("://"); at != std::string::npos; at = text.find("://", at)) {
    at += 3;
    const std::size_t end = std::min(text.find_first_of("\"/ ,\\", at), text.size());
    const std::size_t sign = text.rfind('@', end);
    if (sign == std::string::npos || sign < at || sign >= end) continue;
    const std::size_t colon = text.find(':', at);
    if (colon >= sign) continue;
    text.replace(colon + 1, sign - colon - 1, kMask);
    masked = true;
  }
  return masked;
}

bool mask_after(std::string& text, std::string_view key, std::string_view ends) {
  bool masked = false;
  for (std::size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + key.size())) {
    // "vkey=" is another word.
    const char before = at == 0 ? ' ' : text[at - 1];
    const bool word = key.front() == ':' || before == ' ' || before == ',' || before == '.' || before == '"';
    if (word) masked = mask_until(text, at + key.size(), ends) || masked;
  }
  return masked;
}

// "set_password vnc SECRET", "change vnc password SECRET": all behind the words that are no secret.
bool mask_hmp(std::string& line) {
  struct Rule {
    std::string_view begin;
    int words;
  };
  constexpr std::array<Rule, 3> kRules = {
      {{"set_password ", 2}, {"change vnc password ", 3}, {"block_passwd ", 2}}};
  for (const Rule& rule : kRules) {
    if (!line.starts_with(rule.begin)) continue;
    std::size_t at = 0;
    for (int word = 0; word < rule.words && at != std::string::npos; ++word)
      at = line.find(' ', at ? at + 1 : 0);
    if (at == std::string::npos || at + 1 >= line.size()) return false;
    return mask_until(line, at + 1, "\r\n");
  }
  return false;
}

// NOLINTNEXTLINE(misc-no-recursion): kMaxDepth bounds it.
bool mask_value(json::value& value, int depth) {
  bool masked = false;
  if (depth > kMaxDepth) {
    value = json::string(kMask);
    return true;
  }
  if (json::array* array = value.if_array()) {
    for (json::value& entry : *array) masked = mask_value(entry, depth + 1) || masked;
  } else if (json::object* object = value.if_object()) {
    const json::value* type = object->if_contains("qom-type");
    if (!type) type = object->if_contains("type");
    const bool secret_object =
        type && type->is_string() && std::string_view(type->get_string()).starts_with("secret");
    for (auto& member : *object) {
      const std::string_view key(member.key());
      const bool data = key == "data" && secret_object;
      if (key == "props" && secret_object && member.value().is_object())
        for (auto& property : member.value().get_object())
          if (property.key() == "data") property.value() = json::string(kMask), masked = true;
      if ((data || holds_secret(key)) && member.value().is_string()) {
        member.value() = json::string(kMask);
        masked = true;
      } else {
        masked = mask_value(member.value(), depth + 1) || masked;
      }
    }
  } else if (json::string* string = value.if_string()) {
    std::string text(*string);
    if (mask_text(text)) {
      *string = text;
      masked = true;
    }
  }
  return masked;
}

}  // namespace

bool mask_text(std::string& text) {
  bool masked = text.find("://") != std::string::npos && mask_urls(text);
  if (text.find('=') == std::string::npos) return masked;
  // rbd:pool/image:id=admin:key=SECRET:mon_host=…
  masked = mask_after(text, ":key=", ":\"\\, ") || masked;
  for (const std::string_view key : {"password=", "passwd=", "passphrase=", "key=", "secret="})
    masked = mask_after(text, key, ",\" \\") || masked;
  const bool secret_object =
      text.find("secret,") != std::string::npos || text.find("=secret") != std::string::npos;
  if (secret_object) masked = mask_after(text, "data=", ",\" \\") || masked;
  return masked;
}

bool mask(std::string_view command, json::value& body) {
  bool masked = false;
  // object-add wraps nothing, HMP hides its words in a string.
  if (command == "human-monitor-command" && body.is_object()) {
    if (json::value* line = body.get_object().if_contains("command-line"); line && line->is_string()) {
      std::string text(line->get_string());
      if (mask_hmp(text)) {
        line->get_string() = text;
        masked = true;
      }
    }
  }
  // The keys that send-key presses are no keys of this sort: they are objects.
  return mask_value(body, 0) || masked;
}

std::string masked_json(const qmp::proto::Overheard& message) {
  using Kind = qmp::proto::Overheard::Kind;
  std::string text(message.json);
  json::object whole;
  switch (message.kind) {
    case Kind::command:
    case Kind::reply: {
      json::value body = message.body;
      if (!mask(message.command, body)) return text;
      const bool command = message.kind == Kind::command;
      if (command) whole[message.out_of_band ? "exec-oob" : "execute"] = message.command;
      whole[command ? "arguments" : "return"] = std::move(body);
      if (!message.id.is_null()) whole["id"] = message.id;
      return json::serialize(whole);
    }
    case Kind::event: {
      json::error_code error;
      json::value event = json::parse(text, error);
      json::value* data = !error && event.is_object() ? event.get_object().if_contains("data") : nullptr;
      return data && mask("", *data) ? json::serialize(event) : text;
    }
    case Kind::greeting:
    case Kind::error:
    case Kind::other:
    case Kind::gap:
      break;
  }
  mask_text(text);
  return text;
}

}  // namespace vmwhy::tap
