// SPDX-License-Identifier: BSD-2-Clause
#include "sym/static_probe.hpp"

#include <array>
#include <charconv>
#include <cstring>

#include "sym/unwind.hpp"

namespace vmwhy::sym {
namespace {

constexpr std::size_t kMostArguments = 16;

struct Register {
  unsigned number;
  int bytes;
};

#if defined(__x86_64__)
constexpr char kConstant = '$', kOpen = '(', kClose = ')';

std::optional<Register> find_register(std::string_view name) {
  if (name.empty() || name.front() != '%') return std::nullopt;
  name.remove_prefix(1);
  // In DWARF's order, by their names of 8, 4, 2 bytes and 1.
  static constexpr std::array<std::array<std::string_view, 4>, 8> kNames = {{{"rax", "eax", "ax", "al"},
                                                                             {"rdx", "edx", "dx", "dl"},
                                                                             {"rcx", "ecx", "cx", "cl"},
                                                                             {"rbx", "ebx", "bx", "bl"},
                                                                             {"rsi", "esi", "si", "sil"},
                                                                             {"rdi", "edi", "di", "dil"},
                                                                             {"rbp", "ebp", "bp", "bpl"},
                                                                             {"rsp", "esp", "sp", "spl"}}};
  static constexpr std::array<int, 4> kBytes = {8, 4, 2, 1};
  for (unsigned i = 0; i < kNames.size(); ++i)
    for (std::size_t k = 0; k < kBytes.size(); ++k)
      if (kNames[i][k] == name) return Register{i, kBytes[k]};
  unsigned number = 0;
  if (name.front() != 'r') return std::nullopt;
  const auto [end, error] = std::from_chars(name.data() + 1, name.data() + name.size(), number);
  if (error != std::errc() || number < 8 || number > 15) return std::nullopt;
  const std::string_view suffix(end, static_cast<std::size_t>(name.data() + name.size() - end));
  if (suffix.empty()) return Register{number, 8};
  if (suffix == "d") return Register{number, 4};
  if (suffix == "w") return Register{number, 2};
  if (suffix == "b") return Register{number, 1};
  return std::nullopt;
}
#else
constexpr char kConstant = '\0', kOpen = '[', kClose = ']';

std::optional<Register> find_register(std::string_view name) {
  if (name == "sp") return Register{31, 8};
  if (name.size() < 2 || (name.front() != 'x' && name.front() != 'w')) return std::nullopt;
  unsigned number = 0;
  const auto [end, error] = std::from_chars(name.data() + 1, name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size() || number > 30) return std::nullopt;
  return Register{number, name.front() == 'x' ? 8 : 4};
}
#endif

bool read_number(std::string_view text, std::int64_t& out) {
  bool negative = false;
  if (!text.empty() && (text.front() == '-' || text.front() == '+')) {
    negative = text.front() == '-';
    text.remove_prefix(1);
  }
  const bool hex = text.starts_with("0x");
  if (hex) text.remove_prefix(2);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, hex ? 16 : 10);
  if (error != std::errc() || end != text.data() + text.size()) return false;
  out = static_cast<std::int64_t>(negative ? 0 - value : value);
  return true;
}

/// "-24(%rbp)", "(%rax)"; "[x19]", "[sp, 24]". With an index register, or a symbol's name, it is not read.
bool read_memory(std::string_view text, ProbeArgument& out) {
  const std::size_t open = text.find(kOpen);
  if (open == std::string_view::npos || text.back() != kClose) return false;
  std::string_view name = text.substr(open + 1, text.size() - open - 2), offset = text.substr(0, open);
  if (kOpen == '[' && name.find(',') != std::string_view::npos) {
    offset = name.substr(name.find(',') + 1);
    while (!offset.empty() && (offset.front() == ' ' || offset.front() == '#')) offset.remove_prefix(1);
    name = name.substr(0, name.find(','));
  }
  const auto found = find_register(name);
  if (!found || found->bytes != 8 || (!offset.empty() && !read_number(offset, out.number))) return false;
  out.where = ProbeArgument::Where::in_memory;
  out.reg = found->number;
  return true;
}

ProbeArgument parse_argument(std::string_view text) {
  ProbeArgument out;
  std::int64_t bytes = 0;
  const std::size_t at = text.find('@');
  if (at == std::string_view::npos || !read_number(text.substr(0, at), bytes)) return out;
  const std::int64_t size = bytes < 0 ? -bytes : bytes;
  if (size != 1 && size != 2 && size != 4 && size != 8) return out;
  out.bytes = static_cast<int>(bytes);
  std::string_view where = text.substr(at + 1);
  if (where.empty()) return out;
  if (read_memory(where, out)) return out;
  if (const auto found = find_register(where)) {
    out.where = ProbeArgument::Where::in_register;
    out.reg = found->number;
    return out;
  }
  if (kConstant != '\0' && where.front() != kConstant) return out;
  if (kConstant != '\0') where.remove_prefix(1);
  if (read_number(where, out.number)) out.where = ProbeArgument::Where::constant;
  return out;
}

/// One operand: to the next space that is in no bracket.
std::string_view take_operand(std::string_view& text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  std::size_t end = 0;
  for (bool inside = false; end < text.size() && (inside || text[end] != ' '); ++end)
    inside = text[end] == kOpen || (inside && text[end] != kClose);
  const std::string_view out = text.substr(0, end);
  text.remove_prefix(end);
  return out;
}

std::uint64_t widen(std::uint64_t value, int bytes) {
  const unsigned unused = 64U - 8U * static_cast<unsigned>(bytes < 0 ? -bytes : bytes);
  const std::uint64_t high = value << unused;
  return bytes < 0 ? static_cast<std::uint64_t>(static_cast<std::int64_t>(high) >> unused) : high >> unused;
}

}  // namespace

std::vector<ProbeArgument> parse_probe_arguments(std::string_view text) {
  std::vector<ProbeArgument> out;
  while (out.size() < kMostArguments) {
    const std::string_view operand = take_operand(text);
    if (operand.empty()) break;
    out.push_back(parse_argument(operand));
  }
  return out;
}

std::optional<std::uint64_t> value_of(const ProbeArgument& argument, const Snapshot& snapshot) {
  using Where = ProbeArgument::Where;
  if (argument.where == Where::constant)
    return widen(static_cast<std::uint64_t>(argument.number), argument.bytes);
  if (argument.where == Where::unknown || argument.reg >= snapshot.registers.size()) return std::nullopt;
  const std::uint64_t base = snapshot.registers[argument.reg];
  if (argument.where == Where::in_register) return widen(base, argument.bytes);
  const std::uint64_t address = base + static_cast<std::uint64_t>(argument.number);
  const auto size = static_cast<std::size_t>(argument.bytes < 0 ? -argument.bytes : argument.bytes);
  if (address < snapshot.sp || snapshot.stack.size() < size) return std::nullopt;
  if (address - snapshot.sp > snapshot.stack.size() - size) return std::nullopt;
  std::uint64_t value = 0;
  std::memcpy(&value, snapshot.stack.data() + (address - snapshot.sp), size);
  return widen(value, argument.bytes);
}

}  // namespace vmwhy::sym
