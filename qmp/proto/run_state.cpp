// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/proto/run_state.hpp"

#include <array>
#include <boost/json/object.hpp>
#include <utility>

namespace vmwhy::qmp::proto {
namespace {

constexpr std::array<std::pair<RunState, std::string_view>, 16> kNames{{
    {RunState::debug, "debug"},
    {RunState::inmigrate, "inmigrate"},
    {RunState::internal_error, "internal-error"},
    {RunState::io_error, "io-error"},
    {RunState::paused, "paused"},
    {RunState::postmigrate, "postmigrate"},
    {RunState::prelaunch, "prelaunch"},
    {RunState::finish_migrate, "finish-migrate"},
    {RunState::restore_vm, "restore-vm"},
    {RunState::running, "running"},
    {RunState::save_vm, "save-vm"},
    {RunState::shutdown, "shutdown"},
    {RunState::suspended, "suspended"},
    {RunState::watchdog, "watchdog"},
    {RunState::guest_panicked, "guest-panicked"},
    {RunState::colo, "colo"},
}};

}  // namespace

RunState parse_run_state(std::string_view name) {
  for (const auto& entry : kNames)
    if (entry.second == name) return entry.first;
  return RunState::other;
}

std::string_view to_string(RunState state) {
  for (const auto& entry : kNames)
    if (entry.first == state) return entry.second;
  return {};
}

std::optional<RunStatus> parse_run_status(const boost::json::value& reply) {
  const boost::json::object* object = reply.if_object();
  if (!object) return std::nullopt;
  const boost::json::value* status = object->if_contains("status");
  if (!status || !status->is_string()) return std::nullopt;
  RunStatus out;
  out.text = std::string(status->get_string());
  out.state = parse_run_state(out.text);
  const boost::json::value* running = object->if_contains("running");
  out.running = running && running->is_bool() ? running->get_bool() : out.state == RunState::running;
  return out;
}

}  // namespace vmwhy::qmp::proto
