// SPDX-License-Identifier: BSD-2-Clause
#include "tools/vm-iowatch/vm.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <set>

#include "clock/clock.hpp"
#include "host/proc_file.hpp"
#include "record/qmp_message.hpp"
#include "trace/record.hpp"

namespace vmwhy::vm_iowatch {
namespace {

using std::chrono::milliseconds;

/// A healthy file system answers within microseconds; a slow network within this.
constexpr milliseconds kReachDeadline{1000};
/// Of more throttle groups the first ones are asked about.
constexpr std::size_t kGroups = 64;

bool other_mount_namespace(std::uint32_t pid) {
  struct stat own {
  }, its{};
  return ::stat("/proc/self/ns/mnt", &own) == 0 &&
         ::stat(("/proc/" + std::to_string(pid) + "/ns/mnt").c_str(), &its) == 0 && own.st_ino != its.st_ino;
}

}  // namespace

Vm::Vm(const Context& context, std::uint32_t id, Target target, Handlers handlers)
    : context_(context), id_(id), target_(std::move(target)), handlers_(std::move(handlers)) {
  const qmp::QemuProcess& process = target_.process;
  map_.name = process.name.empty() ? "pid" + std::to_string(process.pid) : process.name;
  map_.pid = process.pid;
  map_.graph = storage::graph_of(storage::from_command_line(process.disks));
  map_.own_namespace = other_mount_namespace(process.pid);
}

Vm::~Vm() {
  *alive_ = false;
}

void Vm::start() {
  const std::uint64_t now = clock::now_ns();
  trace::VmSeen seen{};
  seen.pid = pid();
  seen.start_ns = target_.process.start_ns;
  context_.recorder.add(
      trace::make_record(now, id_, seen, boost::json::serialize(qmp::to_json(target_.process))));
  trace::Watch watch{};
  watch.event = static_cast<std::uint32_t>(trace::WatchEvent::begin);
  context_.recorder.add(trace::make_record(now, id_, watch, name()));
  const auto address = target_.monitor.empty() ? qmp::Result<qmp::Address>(qmp::Failure{})
                                               : qmp::Address::parse(target_.monitor);
  if (!address) {
    map_.note = target_.no_monitor + ": nodes are those of the command line";
    return learn();
  }
  qmp::ClientOptions options;
  options.address = *address;
  qmp::Handlers handlers;
  handlers.on_traffic = [this](const qmp::Traffic& traffic) { on_traffic(traffic); };
  handlers.on_event = [this](const qmp::Event& event) { handlers_.on_event(event); };
  handlers.on_state = [this](qmp::LinkState state, const qmp::Failure* failure) { on_state(state, failure); };
  client_ = std::make_unique<qmp::Client>(context_.io, std::move(options), std::move(handlers));
  client_->start();
}

void Vm::on_state(qmp::LinkState state, const qmp::Failure* failure) {
  if (failure != nullptr) {
    ready_ = false;
    record_link(trace::QmpLinkState::refused, to_string(*failure));
    map_.note = to_string(*failure) + ": nodes are those of the command line";
    if (!std::exchange(settled_, true)) learn();
    return;
  }
  if (state != qmp::LinkState::ready) return;
  ready_ = true;
  map_.note.clear();
  record_link(trace::QmpLinkState::ready, "");
  ask_status();
  settled_ = true;
  learn();
}

void Vm::record_link(trace::QmpLinkState state, const std::string& detail) {
  trace::QmpLink link{};
  link.state = static_cast<std::uint32_t>(state);
  context_.recorder.add(
      trace::make_record(clock::now_ns(), id_, link, trace::join_text({target_.monitor, detail})));
}

void Vm::on_traffic(const qmp::Traffic& traffic) {
  context_.recorder.add(record::qmp_message(id_, traffic));
}

std::vector<std::string> Vm::paths() const {
  std::set<std::string> out;
  for (const auto& entry : map_.graph.nodes) {
    const std::string path = storage::local_path(entry.second.filename);
    // Nodes above a file are listed with its name too.
    if (!path.empty()) out.insert(path);
  }
  return {out.begin(), out.end()};
}

std::vector<std::string> Vm::nodes_of(const std::string& path) const {
  std::vector<std::string> out;
  for (const auto& entry : map_.graph.nodes) {
    const auto lowest = storage::paths_of(map_.graph, entry.first);
    if (!lowest.empty() && lowest.front() == path) out.push_back(entry.first);
  }
  // The lowest first: that is whose requests reach the host.
  std::stable_sort(out.begin(), out.end(), [this](const std::string& a, const std::string& b) {
    return a != b && map_.graph.is_under(a, b);
  });
  return out;
}

void Vm::look_at(const std::vector<std::string>& paths, bool record, Done done) {
  if (context_.probe == nullptr || paths.empty()) return done(paths.empty());
  struct Pending {
    std::size_t waiting;
    bool all_reached = true;
    Done done;
  };
  auto pending = std::make_shared<Pending>(Pending{paths.size(), true, std::move(done)});
  for (const std::string& path : paths) {
    context_.probe->look(
        pid(), path, kReachDeadline,
        [this, alive = std::weak_ptr(alive_), pending, path,
         record](const host::StorageProbe::NodeAnswer& answer) {
          if (alive.expired()) return;
          map_.files[path] = answer.facts;
          pending->all_reached = pending->all_reached && answer.reached;
          if (record)
            for (const std::string& node : nodes_of(path))
              context_.recorder.add(trace::make_record(
                  clock::now_ns(), id_, answer.facts.file,
                  trace::join_text({node, path, answer.facts.mount_point, answer.facts.fs_type,
                                    answer.facts.mount_source, answer.facts.devices, answer.facts.quotas})));
          if (--pending->waiting == 0) pending->done(pending->all_reached);
        });
  }
}

void Vm::learn() {
  if (std::exchange(learning_, true)) return;
  map_.mounts =
      host::parse_mounts(host::read_or_empty("/proc/" + std::to_string(pid()) + "/mountinfo", 4u << 20));
  look_at(paths(), false, [this](bool all_reached) {
    if (!ready_ || !all_reached) {
      if (ready_) map_.note = "QEMU was not asked for its nodes: a file of its disks does not answer";
      return learned();
    }
    ask_graph();
  });
}

/// Their limits stand nowhere else: query-block shows those of the guest device's own throttle.
void Vm::find_throttle_groups() {
  const bool filtered = std::ranges::any_of(
      map_.graph.nodes, [](const auto& entry) { return entry.second.driver == "throttle"; });
  if (!filtered) return throttle_groups_.clear();
  ask("qom-list", {{"path", "/objects"}}, [this](const boost::json::value* value) {
    throttle_groups_.clear();
    if (value == nullptr || !value->is_array()) return;
    for (const boost::json::value& entry : value->get_array()) {
      const auto* object = entry.if_object();
      const auto* name = object != nullptr ? object->if_contains("name") : nullptr;
      const auto* type = object != nullptr ? object->if_contains("type") : nullptr;
      if (name == nullptr || type == nullptr || !name->is_string() || *type != "child<throttle-group>")
        continue;
      if (throttle_groups_.size() < kGroups)
        throttle_groups_.push_back("/objects/" + std::string(name->get_string()));
    }
    ask_throttle_groups();
  });
}

/// The trace keeps the answers.
void Vm::ask_throttle_groups() {
  for (const std::string& path : throttle_groups_)
    ask("qom-get", {{"path", path}, {"property", "limits"}}, [](const boost::json::value*) {});
}

void Vm::ask(const char* command, std::function<void(const boost::json::value*)> handler) {
  boost::json::object arguments;
  if (std::string_view(command) == "query-named-block-nodes") arguments["flat"] = true;
  ask(command, std::move(arguments), std::move(handler));
}

void Vm::ask(const char* command, boost::json::object arguments,
             std::function<void(const boost::json::value*)> handler) {
  ++asked_;
  client_->execute(command, std::move(arguments),
                   [this, alive = std::weak_ptr(alive_),
                    handler = std::move(handler)](const qmp::Result<qmp::Reply>& reply) {
                     if (alive.expired()) return;
                     --asked_;
                     handler(reply ? &reply->value : nullptr);
                   });
}

void Vm::ask_graph() {
  asked_graph_ = true;
  const auto keep = [](boost::json::value& to) {
    return [&to](const boost::json::value* value) {
      if (value != nullptr) to = *value;
    };
  };
  ask("query-named-block-nodes", keep(nodes_));
  ask("query-block", keep(block_));
  ask("query-blockstats", [this](const boost::json::value* value) {
    if (value != nullptr) blockstats_ = *value;
    if (!nodes_.is_array()) {
      map_.note = "QEMU did not tell its nodes: they are those of the command line";
      return learned();
    }
    map_.graph = storage::parse_graph(nodes_, block_, blockstats_);
    find_throttle_groups();
    look_at(paths(), true, [this](bool) { learned(); });
  });
}

void Vm::learned() {
  learning_ = false;
  handlers_.on_learned();
}

void Vm::ask_status() {
  ask("query-status", [this](const boost::json::value* value) {
    const auto* object = value != nullptr ? value->if_object() : nullptr;
    const auto* running = object != nullptr ? object->if_contains("running") : nullptr;
    if (running != nullptr && running->is_bool()) handlers_.on_running(running->get_bool());
  });
}

// A file that did not answer in time once, as on a host that is busy, is looked at again.
void Vm::ask_blockstats() {
  if (!ready_ || asked_ != 0 || learning_ || looking_) return;
  looking_ = true;
  look_at(paths(), false, [this](bool all_reached) {
    looking_ = false;
    if (!all_reached || !ready_ || asked_ != 0) return;
    if (!asked_graph_) return learn();
    ask("query-blockstats", [this](const boost::json::value* value) {
      if (value != nullptr) handlers_.on_blockstats(*value);
    });
    ask_throttle_groups();
  });
}

void Vm::ask_queues(const std::vector<storage::GuestProgress::Queue>& queues, const QueueHandler& handler) {
  if (!ready_) return;
  for (const storage::GuestProgress::Queue& queue : queues)
    ask("x-query-virtio-queue-status", {{"path", queue.path}, {"queue", queue.number}},
        [queue, handler](const boost::json::value* value) { handler(queue, value); });
}

std::vector<storage::ServerNode> Vm::servers() const {
  std::vector<storage::ServerNode> out;
  for (const auto& entry : map_.graph.nodes)
    if (auto address = storage::server_of(entry.second.filename))
      out.push_back({entry.first, *address, entry.second.driver == address->driver});
  return out.empty() ? storage::server_nodes(target_.process.disks) : out;
}

void Vm::look_again() {
  const std::uint64_t began = clock::now_ns();
  look_at(paths(), true, [this, began](bool) {
    if (ready_ && asked_ == 0) ask_status();
    trace::Collected collected{};
    collected.began_ns = began;
    context_.recorder.add(trace::make_record(clock::now_ns(), id_, collected, ""));
    context_.recorder.flush();
  });
}

void Vm::finish(const std::string& reason) {
  trace::Watch watch{};
  watch.event = static_cast<std::uint32_t>(trace::WatchEvent::end);
  context_.recorder.add(trace::make_record(clock::now_ns(), id_, watch, reason));
}

}  // namespace vmwhy::vm_iowatch
