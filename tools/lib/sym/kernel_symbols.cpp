// SPDX-License-Identifier: BSD-2-Clause
#include "sym/kernel_symbols.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <sstream>

#include "core/text.hpp"

namespace vmwhy::sym {
namespace {

/// Of the scheduler, between the tracepoint and whoever gave up the CPU.
bool is_schedule(std::string_view name) {
  return name == "schedule" || name == "__schedule" || name == "schedule_preempt_disabled" ||
         name == "preempt_schedule_irq" || name == "preempt_schedule" || name == "__cond_resched" ||
         name == "preempt_schedule_common" || name == "schedule_rtlock" || name == "schedule_idle";
}

}  // namespace

Result<KernelSymbols> KernelSymbols::load(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return system_failure(errno, "cannot read " + path);
  std::ostringstream text;
  text << in.rdbuf();
  KernelSymbols out = parse(text.str());
  if (out.symbols_.empty())
    return system_failure(EPERM, path + " shows no addresses",
                          "run as root, with kernel.kptr_restrict below 2");
  return out;
}

KernelSymbols KernelSymbols::parse(std::string_view text) {
  KernelSymbols out;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    // "ffffffff81000000 T _text", "ffffffffc0400000 t xfs_read\t[xfs]"
    std::uint64_t address = 0;
    const auto [after, error] = std::from_chars(line.data(), line.data() + line.size(), address, 16);
    const auto at = static_cast<std::size_t>(after - line.data());
    if (error != std::errc() || address == 0 || at + 3 >= line.size() || line[at] != ' ') continue;
    const char kind = line[at + 1];
    if (kind != 't' && kind != 'T' && kind != 'w' && kind != 'W') continue;
    std::string_view name = line.substr(at + 3);
    name = name.substr(0, std::min<std::size_t>(name.find_first_of(" \t"), 128));
    if (out.names_.size() > UINT32_MAX - name.size()) break;
    out.symbols_.push_back(
        {address, static_cast<std::uint32_t>(out.names_.size()), static_cast<std::uint32_t>(name.size())});
    out.names_ += name;
  }
  std::stable_sort(out.symbols_.begin(), out.symbols_.end(),
                   [](const Symbol& a, const Symbol& b) { return a.address < b.address; });
  return out;
}

const KernelSymbols::Symbol* KernelSymbols::find(std::uint64_t address) const {
  auto at =
      std::upper_bound(symbols_.begin(), symbols_.end(), address,
                       [](std::uint64_t value, const Symbol& symbol) { return value < symbol.address; });
  return at == symbols_.begin() ? nullptr : &*--at;
}

std::string_view KernelSymbols::function(std::uint64_t address) const {
  const Symbol* symbol = find(address);
  return symbol ? std::string_view(names_).substr(symbol->at, symbol->length) : std::string_view();
}

std::string KernelSymbols::name(std::uint64_t address) const {
  const Symbol* symbol = find(address);
  if (!symbol) return fmt::format("{:#x}", address);
  return fmt::format("{}+{:#x}", printable(function(address), 128), address - symbol->address);
}

std::vector<std::string> below_schedule(const KernelSymbols& symbols,
                                        const std::vector<std::uint64_t>& stack) {
  // The tracepoint's own frames come first; what follows the scheduler's gave up the CPU.
  const std::size_t frames = stack.size();
  std::size_t first = 0;
  while (first < frames && !is_schedule(symbols.function(stack[first]))) ++first;
  if (first == frames) first = 0;
  while (first < frames && is_schedule(symbols.function(stack[first]))) ++first;
  std::vector<std::string> out;
  for (std::size_t i = first; i < frames && stack[i] != 0; ++i) out.push_back(symbols.name(stack[i]));
  return out;
}

}  // namespace vmwhy::sym
