// SPDX-License-Identifier: BSD-2-Clause
#include "timeline/qmp_track.hpp"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include "timeline/json_read.hpp"
#include "trace/tap_records.hpp"

namespace vmwhy::timeline {
namespace {

namespace json = boost::json;

constexpr std::size_t kMaxEventBytes = 16u << 10;
constexpr std::size_t kMaxNodes = 4096;
constexpr std::size_t kMaxAnswered = 64;

Bounded<QmpEvent>& list_of(VmTracks& vm, const std::string& name) {
  auto at = vm.events.find(name);
  if (at != vm.events.end()) return at->second;
  // An endless supply of new names shares one list.
  const std::string key = vm.events.size() < kEventNames ? name : std::string();
  return vm.events.try_emplace(key, kEventsPerName).first->second;
}

bool brought_already(const VmTracks& vm, const QmpEvent& event) {
  if (event.wall_us < 0) {
    // Without a stamp, the same event cannot be told from another one: the first ready monitor alone counts.
    return std::any_of(vm.links.begin(), vm.links.end(),
                       [&](const auto& entry) { return entry.first < event.link && entry.second.ready; });
  }
  const Bounded<QmpEvent>* list = vm.events_named(event.name);
  if (list == nullptr) return false;
  return std::any_of(list->begin(), list->end(), [&](const QmpEvent& other) {
    return other.wall_us == event.wall_us && other.link != event.link && other.data == event.data;
  });
}

const QmpEvent* add_event(VmTracks& vm, const trace::RecordView& record, const trace::QmpMessage& message,
                          const clock::ClockMap& clocks) {
  std::string_view text = record.text.substr(std::min(record.text.size(), record.text.find('\0') + 1));
  if (text.size() > kMaxEventBytes) return nullptr;
  const json::value parsed = parse_json(text);
  const json::object* object = parsed.if_object();
  if (object == nullptr) return nullptr;

  QmpEvent event;
  event.name = text_of(*object, "event", 64);
  if (event.name.empty()) return nullptr;
  event.arrival_ns = event.time_ns = record.header.time_ns;
  event.wall_us = message.wall_us;
  event.link = message.link;
  if (const json::object* data = object_of(*object, "data")) event.data = *data;
  if (auto own = clocks.from_realtime_us(message.wall_us, event.arrival_ns)) {
    event.time_ns = std::min(own->boottime_ns, event.arrival_ns);
    event.stamped = true;
  }
  if (brought_already(vm, event)) return nullptr;
  ++vm.events_seen;
  Bounded<QmpEvent>& list = list_of(vm, event.name);
  return &list.add(std::move(event));
}

const Status* add_status(VmTracks& vm, const json::object& value, std::uint64_t time_ns,
                         std::uint64_t sent_ns) {
  Status status;
  status.time_ns = time_ns;
  status.sent_ns = sent_ns;
  status.running = bool_of(value, "running");
  status.state = text_of(value, "status", 64);
  return &vm.statuses.add(std::move(status));
}

const Migration* add_migration(VmTracks& vm, const json::object& value, std::uint64_t time_ns) {
  Migration migration;
  migration.time_ns = time_ns;
  migration.status = text_of(value, "status", 64);
  migration.error = text_of(value, "error-desc");
  migration.throttle_percentage = int_of(value, "cpu-throttle-percentage");
  // The dirty limit lets a vCPU fill its ring, and then sleep.
  const std::int64_t sleep_us = int_of(value, "dirty-limit-throttle-time-per-round");
  const std::int64_t run_us = int_of(value, "dirty-limit-ring-full-time");
  if (migration.throttle_percentage <= 0 && sleep_us > 0 && run_us > 0) {
    migration.throttle_percentage = static_cast<std::int64_t>(
        100 * static_cast<double>(sleep_us) / (static_cast<double>(sleep_us) + static_cast<double>(run_us)));
    migration.by_dirty_limit = true;
  }
  return &vm.migrations.add(std::move(migration));
}

void add_jobs(VmTracks& vm, const json::array& value, std::uint64_t time_ns) {
  Jobs jobs;
  jobs.time_ns = time_ns;
  for (const json::value& entry : value) {
    const json::object* job = entry.if_object();
    if (job == nullptr || jobs.jobs.size() >= 256) continue;
    jobs.jobs.push_back({text_of(*job, "id", 64), text_of(*job, "type", 64), text_of(*job, "status", 64),
                         text_of(*job, "error")});
  }
  vm.jobs.add(std::move(jobs));
}

/// Of a node's description ("json:{…}") the throttle groups of the filters on the way to its file.
std::vector<std::string> throttle_groups_of(const std::string& filename) {
  std::vector<std::string> out;
  if (!filename.starts_with("json:")) return out;
  const json::value parsed = parse_json(std::string_view(filename).substr(5));
  for (const json::object* node = parsed.if_object(); node != nullptr && out.size() < 16;
       node = object_of(*node, "file"))
    if (std::string group = text_of(*node, "throttle-group", 128); !group.empty())
      out.push_back(std::move(group));
  return out;
}

void add_graph(VmTracks& vm, const json::array& value, std::uint64_t time_ns) {
  BlockGraph graph;
  graph.time_ns = time_ns;
  for (const json::value& entry : value) {
    const json::object* object = entry.if_object();
    if (object == nullptr || graph.nodes.size() >= kMaxNodes) continue;
    BlockNode node;
    node.name = text_of(*object, "node-name", 128);
    node.driver = text_of(*object, "drv", 64);
    node.filename = text_of(*object, "file", 4096);
    node.throttle_groups = throttle_groups_of(node.filename);
    if (const json::array* children = array_of(*object, "children")) {
      for (const json::value& child : *children) {
        const json::object* named = child.if_object();
        if (named == nullptr || node.children.size() >= 64) continue;
        std::string name = text_of(*named, "node-name", 128);
        if (!name.empty()) node.children.push_back(std::move(name));
      }
    }
    if (!node.name.empty()) graph.nodes.insert_or_assign(node.name, node);
  }
  vm.graphs.add(std::move(graph));
}

void add_throttle(BlockBackends& backends, const json::object& inserted) {
  const std::string node = text_of(inserted, "node-name", 128);
  if (node.empty()) return;
  for (const char* limit : {"iops", "iops_rd", "iops_wr", "bps", "bps_rd", "bps_wr"}) {
    const std::int64_t value = int_of(inserted, limit);
    if (value > 0 && backends.limits.size() < kMaxNodes)
      backends.limits[node][limit] = static_cast<std::uint64_t>(value);
  }
}

void add_stats(BlockBackends& backends, const json::object& entry, int depth) {
  const std::string node = text_of(entry, "node-name", 128);
  const json::object* stats = object_of(entry, "stats");
  if (!node.empty() && stats != nullptr && backends.highest_write.size() < kMaxNodes) {
    backends.highest_write.insert_or_assign(
        node, static_cast<std::uint64_t>(std::max<std::int64_t>(0, int_of(*stats, "wr_highest_offset"))));
  }
  if (depth > 8) return;
  for (const char* below : {"parent", "backing"}) {
    if (const json::object* child = object_of(entry, below)) add_stats(backends, *child, depth + 1);
  }
}

/// query-blockstats does not tell limits: those known before hold on, however often it is asked.
void add_backends(VmTracks& vm, const json::array& value, std::uint64_t time_ns, bool tells_limits) {
  BlockBackends backends;
  backends.time_ns = time_ns;
  if (tells_limits) {
    backends.limits_known = true;
  } else if (const BlockBackends* before = vm.backends.last_in(0, time_ns)) {
    backends.limits = before->limits;
    backends.limits_known = before->limits_known;
  }
  for (const json::value& entry : value) {
    const json::object* object = entry.if_object();
    if (object == nullptr) continue;
    if (const json::object* inserted = object_of(*object, "inserted")) add_throttle(backends, *inserted);
    add_stats(backends, *object, 0);
  }
  vm.backends.add(std::move(backends));
}

std::string id_of(const json::object& message) {
  const json::value* id = message.if_contains("id");
  return id != nullptr ? json::serialize(*id).substr(0, 128) : std::string();
}

/// What follows the command's name in a record of QMP.
std::string_view message_text(const trace::RecordView& record) {
  return record.text.substr(std::min(record.text.size(), record.text.find('\0') + 1));
}

/// qom-get of a throttle group's limits: its reply does not tell which.
void add_throttle_question(VmTracks& vm, const trace::RecordView& record, std::uint32_t link) {
  constexpr std::string_view kObjects = "/objects/";
  const json::value parsed = parse_json(message_text(record));
  const json::object* object = parsed.if_object();
  const json::object* arguments = object != nullptr ? object_of(*object, "arguments") : nullptr;
  if (arguments == nullptr || text_of(*arguments, "property", 16) != "limits") return;
  const std::string path = text_of(*arguments, "path", 256);
  if (!path.starts_with(kObjects)) return;
  // Replies may have been lost.
  if (vm.throttle_questions.size() >= 256) vm.throttle_questions.clear();
  vm.throttle_questions[{link, id_of(*object)}] = path.substr(kObjects.size());
}

void add_throttle_group(VmTracks& vm, const trace::RecordView& record, std::uint32_t link) {
  if (vm.throttle_questions.empty()) return;
  const json::value parsed = parse_json(message_text(record));
  const json::object* object = parsed.if_object();
  if (object == nullptr) return;
  const auto asked = vm.throttle_questions.find({link, id_of(*object)});
  if (asked == vm.throttle_questions.end()) return;
  ThrottleGroup group{record.header.time_ns, std::move(asked->second), {}};
  vm.throttle_questions.erase(asked);
  const json::object* limits = object_of(*object, "return");
  if (limits == nullptr) return;
  for (const auto& [member, name] : {std::pair{"iops-total", "iops"},
                                     {"iops-read", "iops_rd"},
                                     {"iops-write", "iops_wr"},
                                     {"bps-total", "bps"},
                                     {"bps-read", "bps_rd"},
                                     {"bps-write", "bps_wr"}})
    if (const std::int64_t value = int_of(*limits, member); value > 0)
      group.limits[name] = static_cast<std::uint64_t>(value);
  vm.throttle_groups.add(std::move(group));
}

void add_cpus(VmTracks& vm, const json::array& value) {
  for (const json::value& entry : value) {
    const json::object* cpu = entry.if_object();
    if (cpu == nullptr || vm.vcpu_threads.size() >= 4096) continue;
    const std::int64_t tid = int_of(*cpu, "thread-id");
    if (tid > 0 && tid <= INT32_MAX) {
      vm.vcpu_threads[static_cast<std::uint32_t>(tid)] =
          static_cast<std::int32_t>(std::clamp<std::int64_t>(int_of(*cpu, "cpu-index"), 0, INT32_MAX));
    }
  }
}

void add_reply(VmTracks& vm, const trace::RecordView& record, const trace::QmpMessage& message,
               QmpFact& fact) {
  const std::size_t nul = record.text.find('\0');
  if (nul == std::string_view::npos) return;
  const std::string_view command = record.text.substr(0, nul);
  if (command == "qom-get") return add_throttle_group(vm, record, message.link);
  if (command.substr(0, 6) != "query-") return;
  const json::value parsed = parse_json(record.text.substr(nul + 1));
  const json::object* object = parsed.if_object();
  if (object == nullptr) return;
  const std::uint64_t time_ns = record.header.time_ns;
  if (vm.answered.size() < kMaxAnswered || vm.answered.contains(command))
    vm.answered.insert_or_assign(std::string(command.substr(0, 64)), time_ns);
  if (const json::object* value = object_of(*object, "return")) {
    if (command == "query-status") fact.status = add_status(vm, *value, time_ns, message.sent_ns);
    if (command == "query-migrate") fact.migration = add_migration(vm, *value, time_ns);
  } else if (const json::array* list = array_of(*object, "return")) {
    if (command == "query-jobs") add_jobs(vm, *list, time_ns);
    if (command == "query-named-block-nodes") add_graph(vm, *list, time_ns);
    if (command == "query-block" || command == "query-blockstats")
      add_backends(vm, *list, time_ns, command == "query-block");
    if (command == "query-cpus-fast") add_cpus(vm, *list);
  }
}

void add_command(VmTracks& vm, const trace::RecordView& record, const trace::QmpMessage& message) {
  const std::string_view name = trace::text_field(record.text, 0).substr(0, 64);
  if (name.empty() || name.substr(0, 6) == "query-" || name == "qmp_capabilities") return;
  if (name == "qom-get") add_throttle_question(vm, record, message.link);
  // What passes by the thousand must not push out what stopped the VM.
  if (name == "qom-get" || name == "qom-list" || name == "device-list-properties") return;
  const bool heard = message.link >= trace::kFirstHeardLink;
  Command command{record.header.time_ns, std::string(name), message.link, heard, {}, {}};
  if (command.heard) {
    const json::value parsed = parse_json(record.text.substr(std::min(record.text.size(), name.size() + 1)));
    if (const json::object* object = parsed.if_object()) {
      if (const json::value* id = object->if_contains("id")) command.id = json::serialize(*id).substr(0, 128);
      if (const json::object* arguments = object_of(*object, "arguments"))
        command.line = text_of(*arguments, name == "migrate" ? "uri" : "command-line", 128);
    }
  }
  vm.commands.add(std::move(command));
}

}  // namespace

QmpFact add_qmp_message(VmTracks& vm, const trace::RecordView& record, const clock::ClockMap& clocks) {
  const auto message = record.as<trace::QmpMessage>();
  QmpFact fact;
  fact.link = message.link;
  fact.sent_ns = message.sent_ns;
  switch (static_cast<trace::QmpKind>(message.kind)) {
    case trace::QmpKind::event:
      fact.event = add_event(vm, record, message, clocks);
      break;
    case trace::QmpKind::return_:
      fact.reply = true;
      add_reply(vm, record, message, fact);
      break;
    case trace::QmpKind::error:
      fact.reply = true;
      break;
    case trace::QmpKind::command:
      add_command(vm, record, message);
      break;
    case trace::QmpKind::greeting:
    case trace::QmpKind::unparsable:
      break;
  }
  return fact;
}

const LinkChange& add_qmp_link(VmTracks& vm, const trace::RecordView& record) {
  const auto link = record.as<trace::QmpLink>();
  LinkChange change;
  change.time_ns = record.header.time_ns;
  change.waited_ns = link.waited_ns;
  change.state = static_cast<trace::QmpLinkState>(link.state);
  change.error = link.error;
  change.link = link.link;
  change.address = trace::text_field(record.text, 0).substr(0, 512);
  change.detail = trace::text_field(record.text, 1).substr(0, 512);

  if (vm.links.size() < kMaxLinks || vm.links.count(change.link) > 0) {
    VmTracks::Link& now = vm.links[change.link];
    now.address = change.address;
    switch (change.state) {
      case trace::QmpLinkState::ready:
        now.ready = true;
        now.ready_ns = change.time_ns;
        now.closed_ns = 0;
        now.overdue = false;
        break;
      case trace::QmpLinkState::reply_overdue:
        now.overdue = true;
        now.overdue_sent_ns = change.time_ns - std::min(change.time_ns, change.waited_ns);
        break;
      case trace::QmpLinkState::reply_late:
        now.overdue = false;
        break;
      default:
        if (now.ready) now.closed_ns = change.time_ns;
        now.ready = false;
        now.overdue = false;
        break;
    }
  }
  return vm.link_changes.add(std::move(change));
}

const Peer& add_qmp_peer(VmTracks& vm, const trace::RecordView& record) {
  Peer out;
  out.time_ns = record.header.time_ns;
  out.peer = record.as<trace::QmpPeer>();
  out.monitor = trace::text_field(record.text, 0).substr(0, 512);
  out.comm = trace::text_field(record.text, 1).substr(0, 64);
  out.command_line = trace::text_field(record.text, 2).substr(0, 512);
  out.user = trace::text_field(record.text, 3).substr(0, 64);
  out.container = trace::text_field(record.text, 4).substr(0, 128);
  out.parents = trace::text_field(record.text, 5).substr(0, 512);
  return vm.peers.add(std::move(out));
}

std::string Peer::to_string() const {
  if (peer.pid == 0) return comm.empty() ? "a client that could not be told" : comm;
  const std::string pid = std::to_string(peer.pid);
  return comm.empty() ? "pid " + pid : comm + " (" + pid + ")";
}

void add_qmp_withheld(VmTracks& vm, const trace::RecordView& record) {
  vm.withheld.add({record.header.time_ns, std::string(trace::text_field(record.text, 0).substr(0, 64)),
                   std::string(trace::text_field(record.text, 1).substr(0, 512))});
}

}  // namespace vmwhy::timeline
