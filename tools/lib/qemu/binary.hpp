// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One executable of QEMU: where its functions are, what its numbers mean, and the breakpoints in it.

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bpf/include/qemu_calls.h"
#include "bpf/load/uprobes.hpp"
#include "host/sensors.hpp"
#include "qemu/functions.hpp"
#include "sym/executable.hpp"
#include "sym/unwind.hpp"

namespace vmwhy::qemu {

/// A call with its numbers put into words.
struct Call {
  std::string_view function;
  std::array<std::uint64_t, QEMU_CALLS_ARGUMENTS> arguments{};  ///< 0 where one is not known.
  std::string value;  ///< "paused", "active → completed", "stop, write, ENOSPC"; "" where nothing is said.
  std::string strings;  ///< What arguments point to, one to a line.
  std::string callers;  ///< The nearest first, one to a line.
};

class Binary {
 public:
  using OnSensor = std::function<void(const host::SensorReport&)>;
  /// Begins to attach, and tells what came of it.
  /// @param path  /proc/PID/exe of one that runs it.
  /// Errors: it cannot be read, or the helper that attaches cannot be started.
  static Result<std::unique_ptr<Binary>> open(boost::asio::io_context& io, int program_fd,
                                              const std::string& path, OnSensor on_sensor);

  /// @param event  With `event.stack_bytes` of stack behind it. False: it is no place of ours.
  bool describe(const qemu_calls_event& event, const std::byte* stack, Call& out) const;
  /// "/usr/bin/qemu-system-x86_64".
  const std::string& path() const { return executable_->path(); }

 private:
  Binary(boost::asio::io_context& io, std::unique_ptr<sym::Executable> executable, OnSensor on_sensor);
  void read_news();
  std::string what_is_found() const;

  /// Where a breakpoint is: a function's first instruction, or the no-op of a static probe.
  struct Place {
    const Function* function;
    Sense sense;
    std::uint64_t address;                                 ///< In the file.
    std::optional<std::vector<sym::ProbeArgument>> where;  ///< Where a static probe's arguments are.
  };
  std::vector<Place> places_of(const Function& function, const std::vector<sym::StaticProbe>& probes) const;
  std::string value_of(const Place& place, const Call& call, std::uint64_t bias) const;
  std::string callers_of(const sym::Snapshot& snapshot, std::uint64_t bias) const;

  std::unique_ptr<sym::Executable> executable_;
  std::vector<std::string> run_states_, shutdown_causes_, migration_statuses_, error_actions_;
  std::vector<Place> places_;                                 ///< By the cookie's number.
  std::vector<std::string_view> found_, by_event_, missing_;  ///< Names of functions.
  std::unique_ptr<bpf::Uprobes> uprobes_;
  boost::asio::posix::stream_descriptor news_;  ///< A duplicate of uprobes_'s descriptor.
  OnSensor on_sensor_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace vmwhy::qemu
