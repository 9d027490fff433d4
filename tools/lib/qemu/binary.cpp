// SPDX-License-Identifier: BSD-2-Clause
#include "qemu/binary.hpp"

#include <fmt/format.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "core/text.hpp"

namespace vmwhy::qemu {
namespace {

using What = bpf::Uprobes::News::What;

constexpr std::size_t kLongestText = 64;
#if defined(__x86_64__)
constexpr std::size_t kPc = 16, kSp = 7;
#else
constexpr std::size_t kPc = 32, kSp = 31;
#endif

std::string name_of(const std::vector<std::string>& names, std::uint64_t argument) {
  // An int: what stands in the upper half of the register means nothing.
  const auto value = static_cast<std::uint32_t>(argument);
  return value < names.size() ? names[value] : fmt::format("{}", static_cast<std::int32_t>(value));
}

std::string errno_name(std::uint64_t argument) {
  const auto error = static_cast<std::int32_t>(argument);
  const char* name = ::strerrorname_np(error);
  return name != nullptr ? name : fmt::format("error {}", error);
}

}  // namespace

Binary::Binary(boost::asio::io_context& io, std::unique_ptr<sym::Executable> executable, OnSensor on_sensor)
    : executable_(std::move(executable)), news_(io), on_sensor_(std::move(on_sensor)) {
  run_states_ = executable_->qapi_enum("RunState");
  shutdown_causes_ = executable_->qapi_enum("ShutdownCause");
  migration_statuses_ = executable_->qapi_enum("MigrationStatus");
  error_actions_ = executable_->qapi_enum("BlockErrorAction");
}

Result<std::unique_ptr<Binary>> Binary::open(boost::asio::io_context& io, int program_fd,
                                             const std::string& path, OnSensor on_sensor) {
  auto executable = sym::Executable::open(path);
  if (!executable) return executable.error();
  std::unique_ptr<Binary> out(new Binary(io, std::move(*executable), std::move(on_sensor)));
  const auto probes = out->executable_->static_probes("qemu");
  std::vector<bpf::UprobePlace> places;
  for (const Function& function : functions()) {
    const std::size_t before = places.size();
    for (Place& place : out->places_of(function, probes)) {
      const auto offset = out->executable_->file_offset(place.address);
      std::uint64_t cookie = out->places_.size();
      if (!offset || cookie > QEMU_CALLS_PLACE) continue;
      if (function.with_stack || place.where) cookie |= QEMU_CALLS_WITH_STACK;
      if (place.sense == Sense::block_names) cookie |= QEMU_CALLS_WITH_STRINGS;
      places.push_back({*offset, cookie});
      out->places_.push_back(std::move(place));
    }
    if (places.size() == before)
      out->missing_.push_back(function.name);
    else
      (out->places_.back().where ? out->by_event_ : out->found_).push_back(function.name);
  }
  if (places.empty())
    return system_failure(ENOENT, out->path() + " names none of the functions that are looked for",
                          "a QEMU built with modules or static probes, or its debug symbols");
  auto uprobes = bpf::Uprobes::start(program_fd, path, places);
  if (!uprobes) return Failure{uprobes.error().code, uprobes.error().context, uprobes.error().remedy};
  out->uprobes_ = std::move(*uprobes);
  out->news_.assign(::dup(out->uprobes_->fd()));
  out->read_news();
  return out;
}

std::vector<Binary::Place> Binary::places_of(const Function& function,
                                             const std::vector<sym::StaticProbe>& probes) const {
  std::vector<Place> out;
  if (const auto* symbol = executable_->find(function.name); symbol != nullptr)
    return {{&function, function.sense, symbol->address, std::nullopt}};
  if (!function.event) return out;
  for (const sym::StaticProbe& probe : probes)
    if (probe.name == function.name)
      out.push_back({&function, *function.event, probe.address, probe.arguments});
  return out;
}

std::string Binary::what_is_found() const {
  std::string text = fmt::format("{} of {} functions of {} (build id {})", found_.size() + by_event_.size(),
                                 functions().size(), path(),
                                 executable_->build_id().empty() ? "none" : executable_->build_id());
  if (!by_event_.empty()) text += fmt::format("; by its static probes {}", fmt::join(by_event_, ", "));
  if (!missing_.empty()) text += fmt::format("; it has no {}", fmt::join(missing_, ", "));
  if (run_states_.empty()) text += "; its run states are numbers";
  return text;
}

void Binary::read_news() {
  const auto wake = [this, alive = std::weak_ptr(alive_)](const boost::system::error_code& error) {
    if (error || alive.expired()) return;
    while (const auto news = uprobes_->read()) {
      if (news->what == What::attached && news->value < places_.size())
        on_sensor_({"qemu", trace::SensorState::partial, news->error,
                    fmt::format("only {} of what was found is followed: {}", news->value, what_is_found()),
                    ""});
      else if (news->what == What::attached)
        on_sensor_({"qemu", trace::SensorState::on, 0, what_is_found() + " are followed", ""});
      else if (news->what == What::ended)
        return on_sensor_({"qemu", trace::SensorState::failed, 0,
                           fmt::format("functions of {} are not followed any more: the helper that holds the "
                                       "breakpoints has ended",
                                       path()),
                           ""});
      else if (news->what == What::failed)
        return on_sensor_(
            {"qemu", trace::SensorState::failed, news->error,
             fmt::format("functions of {} are not followed: {}", path(), ::strerror(news->error)), ""});
      else
        on_sensor_(
            {"qemu", trace::SensorState::off, 0,
             fmt::format("functions of {} are not followed yet: a thread of process {} is stuck in the "
                         "kernel, and to attach would wait for it, and hold up every fork of the host",
                         path(), news->value),
             "they are as soon as it runs again"});
    }
    read_news();
  };
  news_.async_wait(boost::asio::posix::stream_descriptor::wait_read, wake);
}

std::string Binary::value_of(const Place& place, const Call& call, std::uint64_t bias) const {
  const auto& argument = call.arguments;
  const auto text_at = [&](std::uint64_t address) {
    return printable(executable_->string_at(address - bias, kLongestText));
  };
  switch (place.sense) {
    case Sense::run_state:
      return name_of(run_states_, argument[0]);
    case Sense::shutdown_cause:
      return name_of(shutdown_causes_, argument[0]);
    case Sense::migration_status:
      return name_of(migration_statuses_, argument[1]) + " → " + name_of(migration_statuses_, argument[2]);
    case Sense::block_error:
      return name_of(error_actions_, argument[1]) + ((argument[2] & 1) != 0 ? ", read, " : ", write, ") +
             errno_name(argument[3]);
    case Sense::new_run_state: {
      std::string name = text_at(argument[3]);
      return name.empty() ? name_of(run_states_, argument[2]) : name;
    }
    case Sense::text:
      return text_at(argument[0]);
    case Sense::none:
    case Sense::block_names:
      break;
  }
  return {};
}

std::string Binary::callers_of(const sym::Snapshot& snapshot, std::uint64_t bias) const {
  std::string out;
  if (snapshot.stack.empty()) return out;
  const auto frames = sym::unwind(*executable_, bias, snapshot);
  for (std::size_t i = 1; i < frames.size(); ++i) {
    if (!out.empty()) out += '\n';
    // Where it goes on stands behind the call: which may be another function's first instruction.
    const auto* caller = executable_->at(frames[i] - 1);
    out += caller != nullptr ? fmt::format("{}+{:#x}", caller->name, frames[i] - caller->address)
                             : executable_->name(frames[i]);
  }
  return out;
}

bool Binary::describe(const qemu_calls_event& event, const std::byte* stack, Call& out) const {
  if (event.place >= places_.size()) return false;
  const Place& place = places_[event.place];
  sym::Snapshot snapshot;
  snapshot.pc = event.registers[kPc];
  snapshot.sp = event.registers[kSp];
  std::array<std::uint64_t, kPc> registers;
  std::copy_n(event.registers, kPc, registers.begin());
  snapshot.registers = registers;
  snapshot.stack = {stack, event.stack_bytes};
  // The breakpoint is at a place that is known: that tells where the executable lies.
  const std::uint64_t bias = snapshot.pc - place.address;
  out.function = place.function->name;
  std::copy(std::begin(event.arguments), std::end(event.arguments), out.arguments.begin());
  if (place.where)
    for (std::size_t i = 0; i < out.arguments.size(); ++i)
      out.arguments[i] = i < place.where->size() ? sym::value_of((*place.where)[i], snapshot).value_or(0) : 0;
  out.value = value_of(place, out, bias);
  if (place.function->with_stack) out.callers = callers_of(snapshot, bias);
  for (const auto& text : event.strings) {
    const std::string_view whole(text, ::strnlen(text, sizeof(text)));
    // A number that happens to be an address is no name.
    if (whole.empty() || whole != printable(whole)) continue;
    if (!out.strings.empty()) out.strings += '\n';
    out.strings += whole;
  }
  return true;
}

}  // namespace vmwhy::qemu
