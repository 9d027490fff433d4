// SPDX-License-Identifier: BSD-2-Clause
#include "tools/vm-trace/format_record.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <cstring>
#include <vector>

#include "core/text.hpp"
#include "kvm/reasons.hpp"
#include "trace/records.hpp"
#include "trace/schema.hpp"

namespace vmwhy::vm_trace {
namespace {

using trace::FieldInfo;
using trace::RecordInfo;
using trace::RecordView;

std::uint64_t load_unsigned(std::string_view bytes) {
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof value));
  return value;
}

std::int64_t load_signed(std::string_view bytes) {
  const std::uint64_t value = load_unsigned(bytes);
  const unsigned shift = 64 - 8 * static_cast<unsigned>(bytes.size());
  return static_cast<std::int64_t>(value << shift) >> shift;
}

// The name of `value` where a field's meaning lists them: "1 begin, 2 end".
std::string_view value_name(std::string_view meaning, std::uint64_t value) {
  for (std::string_view item : split(meaning, ',')) {
    item = trim(item);
    std::uint64_t number = 0;
    const auto [rest, error] = std::from_chars(item.data(), item.data() + item.size(), number);
    const auto length = static_cast<std::size_t>(rest - item.data());
    if (error != std::errc() || length == item.size() || item[length] != ' ') return {};
    if (number == value) return item.substr(length + 1);
  }
  return {};
}

std::string field_text(const FieldInfo& field, std::string_view bytes) {
  switch (field.kind) {
    case 'i':
      return fmt::format("{}", load_signed(bytes));
    case 's':
      return '"' + printable(bytes.substr(0, bytes.find('\0'))) + '"';
    case 'c': {
      const std::uint64_t letter = load_unsigned(bytes);
      return letter > ' ' && letter < 0x7f ? std::string(1, static_cast<char>(letter))
                                           : fmt::format("{}", letter);
    }
    default: {
      const std::uint64_t value = load_unsigned(bytes);
      std::string name(value_name(field.meaning, value));
      std::replace(name.begin(), name.end(), ' ', '-');
      return name.empty() ? fmt::format("{}", value) : name;
    }
  }
}

boost::json::value field_json(const FieldInfo& field, std::string_view bytes) {
  switch (field.kind) {
    case 'i':
      return load_signed(bytes);
    case 's':
      return boost::json::string(bytes.substr(0, bytes.find('\0')));
    case 'c': {
      const std::uint64_t letter = load_unsigned(bytes);
      if (letter > ' ' && letter < 0x7f) return boost::json::string(1, static_cast<char>(letter));
      return letter;
    }
    default:
      return load_unsigned(bytes);
  }
}

// Fields that the record has, in order; `visit` gets each with its bytes. @return where the known part ends.
template <class Visit>
std::size_t each_field(const RecordView& record, const RecordInfo* info, Visit visit) {
  if (info == nullptr) return 0;
  std::size_t end = 0;
  for (const FieldInfo& field : info->fields) {
    if (field.offset + std::size_t{field.width} > record.fixed.size()) break;
    end = field.offset + std::size_t{field.width};
    if (field.name != "reserved") visit(field, record.fixed.substr(field.offset, field.width));
  }
  return end;
}

// The strings of the text with their names; the last one takes what the schema has no name for.
std::vector<std::pair<std::string_view, std::string_view>> text_parts(const RecordView& record,
                                                                      const RecordInfo* info) {
  std::vector<std::pair<std::string_view, std::string_view>> parts;
  if (record.text.empty()) return parts;
  std::string_view rest = record.text;
  const auto names = split(info == nullptr ? std::string_view() : info->text, ',');
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::size_t nul = i + 1 == names.size() ? std::string_view::npos : rest.find('\0');
    const std::string_view name = trim(names[i]);
    parts.emplace_back(name.empty() ? std::string_view("text") : name, rest.substr(0, nul));
    if (nul == std::string_view::npos) break;
    rest.remove_prefix(nul + 1);
  }
  return parts;
}

// A record's fixed part as `S`; what the file does not have is zero.
template <class S>
S fixed_as(const RecordView& record) {
  S out{};
  std::memcpy(&out, record.fixed.data(), std::min(record.fixed.size(), sizeof out));
  return out;
}

// What numbers of a record mean beyond what the schema tells: codes of exits, by the processor they come
// from.
std::vector<std::pair<std::string_view, std::string>> names_of_codes(const RecordView& record) {
  std::vector<std::pair<std::string_view, std::string>> out;
  switch (static_cast<trace::RecordType>(record.header.type)) {
    case trace::RecordType::kvm_exit: {
      const auto exit = fixed_as<trace::KvmExit>(record);
      out.emplace_back("reason", kvm::exit_reason_name(kvm::isa_from(exit.isa), exit.code));
      if (exit.user_code != kvm::kNotToUserspace)
        out.emplace_back("user_reason", kvm::userspace_reason_name(exit.user_code));
      break;
    }
    case trace::RecordType::kvm_failure: {
      const auto failure = fixed_as<trace::KvmFailure>(record);
      out.emplace_back("last_reason", kvm::exit_reason_name(kvm::isa_from(failure.isa), failure.last_code));
      out.emplace_back("user_reason", kvm::userspace_reason_name(failure.user_code));
      break;
    }
    default:  // kvm_exit_summary carries its reason's name as text.
      break;
  }
  return out;
}

std::string hex(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) out += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return out;
}

}  // namespace

std::string type_name(std::uint16_t type) {
  const RecordInfo* info = trace::find_record_info(type);
  return info == nullptr ? fmt::format("type {}", type) : std::string(info->name);
}

std::string text_line(const RecordView& record, std::optional<std::int64_t> realtime_ns) {
  const RecordInfo* info = trace::find_record_info(record.header.type);
  std::string line = realtime_ns ? iso_time(*realtime_ns)
                                 : fmt::format("{}.{:09}", record.header.time_ns / 1'000'000'000,
                                               record.header.time_ns % 1'000'000'000);
  line += record.header.vm == 0 ? " host " : fmt::format(" vm{} ", record.header.vm);
  line += type_name(record.header.type);
  const std::size_t known = each_field(record, info, [&](const FieldInfo& field, std::string_view bytes) {
    line += fmt::format(" {}={}", field.name, field_text(field, bytes));
  });
  for (const auto& [name, text] : names_of_codes(record)) line += fmt::format(" {}=\"{}\"", name, text);
  if (known < record.fixed.size()) line += " +" + hex(record.fixed.substr(known).substr(0, 64));
  for (const auto& part : text_parts(record, info)) {
    if (!part.second.empty()) line += fmt::format(" {}=\"{}\"", part.first, printable(part.second));
  }
  return line;
}

boost::json::object json_object(const RecordView& record, std::optional<std::int64_t> realtime_ns) {
  const RecordInfo* info = trace::find_record_info(record.header.type);
  boost::json::object out{{"time_ns", record.header.time_ns}};
  if (realtime_ns)
    out["time"] = iso_time(*realtime_ns);
  else
    out["time"] = nullptr;
  if (info != nullptr)
    out["type"] = boost::json::string_view(info->name);
  else
    out["type"] = record.header.type;
  out["vm"] = record.header.vm;
  const std::size_t known = each_field(record, info, [&](const FieldInfo& field, std::string_view bytes) {
    out[boost::json::string_view(field.name)] = field_json(field, bytes);
  });
  for (const auto& [name, text] : names_of_codes(record)) out[boost::json::string_view(name)] = text;
  if (known < record.fixed.size()) out["unknown_hex"] = hex(record.fixed.substr(known));
  boost::json::object texts;
  for (const auto& part : text_parts(record, info))
    texts[boost::json::string_view(part.first)] = boost::json::string_view(part.second);
  if (!texts.empty()) out["text"] = std::move(texts);
  return out;
}

}  // namespace vmwhy::vm_trace
