// SPDX-License-Identifier: BSD-2-Clause
#include "sym/process_code.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>

namespace vmwhy::sym {
namespace {

constexpr std::size_t kMostMappings = 4096, kMostFiles = 512;

bool take_hex(std::string_view& text, std::uint64_t& value, char until) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  const auto at = static_cast<std::size_t>(end - text.data());
  if (error != std::errc() || at >= text.size() || text[at] != until) return false;
  text.remove_prefix(at + 1);
  return true;
}

/// "7f..-7f.. r-xp 00028000 08:01 1234     /usr/lib/x86_64-linux-gnu/libc.so.6"
bool parse_line(std::string_view line, Mapping& out) {
  if (!take_hex(line, out.begin, '-') || !take_hex(line, out.end, ' ')) return false;
  if (line.size() < 5 || line[2] != 'x') return false;
  line.remove_prefix(5);
  if (!take_hex(line, out.offset, ' ')) return false;
  const std::size_t device = line.find(' ');
  if (device == std::string_view::npos) return false;
  out.device = line.substr(0, device);
  line.remove_prefix(device + 1);
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), out.inode);
  const std::size_t path = line.find('/');
  if (error != std::errc() || out.inode == 0 || path == std::string_view::npos) return false;
  out.path = line.substr(path);
  return true;
}

bool is_c_library(std::string_view path) {
  const std::string_view name = path.substr(path.rfind('/') + 1);
  return name.starts_with("libc.so") || name.starts_with("libc-");
}

/// Whether the stack holds an address in there: one to return to, perhaps.
bool is_touched(const Mapping& mapping, const Snapshot& snapshot) {
  const auto within = [&](std::uint64_t address) {
    return address >= mapping.begin && address < mapping.end;
  };
  if (within(snapshot.pc)) return true;
  for (const std::uint64_t value : snapshot.registers)
    if (within(value)) return true;
  for (std::size_t at = 0; at + sizeof(std::uint64_t) <= snapshot.stack.size(); at += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, snapshot.stack.data() + at, sizeof word);
    if (within(word)) return true;
  }
  return false;
}

}  // namespace

std::vector<Mapping> parse_maps(std::string_view text) {
  std::vector<Mapping> out;
  while (!text.empty() && out.size() < kMostMappings) {
    const std::size_t end = text.find('\n');
    Mapping mapping;
    if (parse_line(text.substr(0, end), mapping)) out.push_back(std::move(mapping));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return out;
}

Result<void> ProcessCode::look(std::uint32_t pid) {
  const std::string path = fmt::format("/proc/{}/maps", pid);
  std::ifstream in(path, std::ios::binary);
  if (!in) return system_failure(errno, "cannot read " + path);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  std::vector<Mapping>& mappings = mappings_[pid] = parse_maps(text);
  for (std::size_t i = 0; i < mappings.size(); ++i)
    if (i == 0 || is_c_library(mappings[i].path)) open(pid, mappings[i]);
  return {};
}

const Executable* ProcessCode::open(std::uint32_t pid, const Mapping& mapping) {
  const Key key{mapping.device, mapping.inode};
  if (const auto known = files_.find(key); known != files_.end()) return known->second.get();
  if (files_.size() >= kMostFiles) return nullptr;
  // The file itself, also one that was replaced since, and in whatever mount namespace it is.
  auto file = Executable::open(fmt::format("/proc/{}/map_files/{:x}-{:x}", pid, mapping.begin, mapping.end));
  if (!file) file = Executable::open(fmt::format("/proc/{}/root{}", pid, mapping.path));
  return (files_[key] = file ? std::move(*file) : nullptr).get();
}

std::vector<NamedFrame> ProcessCode::name(std::uint32_t pid, const Snapshot& snapshot) {
  const auto known = mappings_.find(pid);
  if (known == mappings_.end()) return {};
  std::vector<Module> modules;
  for (const Mapping& mapping : known->second) {
    if (!is_touched(mapping, snapshot)) continue;
    const Executable* executable = open(pid, mapping);
    const auto bias = executable != nullptr ? executable->bias(mapping.begin, mapping.offset) : std::nullopt;
    const bool twice = std::any_of(modules.begin(), modules.end(),
                                   [&](const Module& module) { return module.executable == executable; });
    if (bias && !twice) modules.push_back({executable, *bias});
  }
  std::vector<NamedFrame> out;
  for (const Frame& frame : unwind(modules, snapshot))
    out.push_back({frame.executable->frame_name(frame.address, out.empty()), frame.executable->build_id(),
                   frame.address});
  return out;
}

}  // namespace vmwhy::sym
