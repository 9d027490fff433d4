// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/vm_watch.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/serialize.hpp>

#include "clock/clock.hpp"
#include "core/text.hpp"
#include "qmp/remedy.hpp"
#include "tools/qmp-pausewatch/collector.hpp"
#include "trace/record.hpp"

namespace vmwhy::qmp_pausewatch {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
/// Collections of one VM may follow each other at this distance; incidents in between share the next one.
constexpr std::uint64_t kCollectionDistance = kSecond / 10;
/// An answer that takes longer is a reason to look at the process.
constexpr std::uint64_t kPatience = kSecond / 2;
/// Storage that has not answered for so long is not asked about.
constexpr std::uint64_t kHung = kSecond;
/// Ticks between two attempts at a monitor that somebody else holds, and at one that went away.
constexpr int kHeldRetry = 30;
constexpr int kLostRetry = 1;
/// A monitor without a known process that is gone for so many attempts is taken for ended.
constexpr int kGoneAfter = 5;
/// So many attempts a QEMU that was just started has to make its socket.
constexpr int kYoung = 5;

trace::OwnedRecord watch_record(std::uint64_t now, std::uint32_t vm, trace::WatchEvent event,
                                std::string text) {
  return trace::make_record(now, vm, trace::Watch{static_cast<std::uint32_t>(event), 0}, std::move(text));
}

bool changes_nodes(std::string_view event) {
  return event.starts_with("BLOCK_JOB_") || event == "JOB_STATUS_CHANGE" || event == "DEVICE_DELETED" ||
         event == "DEVICE_TRAY_MOVED";
}

}  // namespace

VmWatch::VmWatch(Context& context, std::uint32_t id, qmp::QemuProcess process,
                 std::optional<std::string> asked_for, Handlers handlers)
    : context_(context),
      id_(id),
      process_(std::move(process)),
      asked_for_(std::move(asked_for)),
      handlers_(std::move(handlers)),
      nodes_(storage::from_command_line(process_.disks)) {}

VmWatch::~VmWatch() {
  *alive_ = false;
  if (collector_) collector_->drop();
}

std::string VmWatch::name() const {
  if (!process_.name.empty()) return process_.name;
  if (process_.pid != 0) return "pid " + std::to_string(process_.pid);
  return asked_for_.value_or("?");
}

std::string VmWatch::monitor() const {
  if (link_) return link_->address();
  return monitors_.of_another();
}

std::string VmWatch::watched_by() const {
  if (link_ || !listening_) return monitor();
  return "listening: " + monitors_.why_none();
}

std::string VmWatch::why_not_asked() const {
  if (!listening_) return "no monitor is connected";
  const std::string holder = monitors_.holder();
  return holder.empty() ? monitors_.why_none()
                        : "its monitor is left to " + holder + ", and only listened to";
}

bool VmWatch::heard() const {
  return (link_ && link_->ever_ready()) || (listening_ && context_.listener->hears(process_.pid));
}

std::uint64_t VmWatch::waiting_ns() const {
  std::uint64_t since = link_ ? link_->waiting_since_ns() : 0;
  if (since == 0 && listening_) since = context_.listener->waiting_since_ns(process_.pid);
  return since == 0 ? 0 : clock::now_ns() - since;
}

void VmWatch::start() {
  record_seen();
  context_.recorder.add(watch_record(clock::now_ns(), id_, trace::WatchEvent::begin, name()));
  watch_process();
  if (!ended_) connect();
}

void VmWatch::record_seen() {
  trace::VmSeen seen{};
  seen.pid = process_.pid;
  seen.start_ns = process_.start_ns;
  auto document = qmp::to_json(process_);
  context_.recorder.add(trace::make_record(clock::now_ns(), id_, seen, boost::json::serialize(document)));
}

void VmWatch::watch_process() {
  if (process_.pid == 0 || gone_) return;
  auto exit =
      host::ExitWatch::start(context_.io, process_.pid, context_.connector.get(),
                             [this](const trace::VmEnd& end, const std::string& how) { on_exit(end, how); });
  watch_ = host::ProcessWatch(process_.pid);
  if (!exit) {
    if (exit.error().code == boost::system::errc::no_such_process) {
      trace::VmEnd end{};
      end.pid = process_.pid;
      on_exit(end, "it had ended before it was watched");
      return;
    }
    context_.say(name() + ": its end will not be noticed at once: " + to_string(exit.error()));
  } else {
    exit_ = std::move(*exit);
  }
  if (context_.ledger) context_.ledger->watch(process_.pid, id_);
  follow_calls();
  context_.links->learn(id_, process_.pid, storage::server_nodes(process_.disks));
  listen();
  cgroup_ = host::CgroupWatch(process_.pid, context_.mounts);
  for (const qmp::QemuThread& thread : process_.threads)
    if (thread.vcpu >= 0) roles_[thread.tid] = {trace::ThreadRole::vcpu, thread.vcpu};
  const std::uint64_t now = clock::now_ns();
  sample_process(now);
  context_.recorder.add(cgroup_.record(now, id_));
}

void VmWatch::follow_calls() {
  if (!context_.calls) return;
  const auto done = context_.calls->watch(process_.pid, id_);
  if (done) return;
  context_.recorder.add(host::sensor_record(clock::now_ns(),
                                            {"qemu", trace::SensorState::failed, done.error().code.value(),
                                             done.error().context, done.error().remedy},
                                            id_));
}

void VmWatch::listen() {
  if (!context_.listener) return;
  const auto own = [this] { return link_ && link_->ready(); };
  const auto unless_own = [own](auto use) {
    if (!own()) use();
  };
  Listener::Handlers handlers;
  handlers.has_own_monitor = own;
  handlers.on_event = [this, unless_own](const qmp::Event& event) {
    unless_own([&] { handlers_.on_event(event); });
  };
  handlers.on_run_state = [this, unless_own](const std::string& state) {
    unless_own([&] { on_run_state(state); });
  };
  handlers.on_round_trip = [this, unless_own](std::uint64_t took) {
    unless_own([&] { handlers_.on_round_trip(took); });
  };
  handlers.on_nodes = [this](const boost::json::value& nodes) { take_nodes(nodes); };
  if (auto done = context_.listener->watch(process_, id_, std::move(handlers)); !done)
    return context_.complain(name() + ": " + to_string(done.error()));
  listening_ = true;
}

void VmWatch::settle_without_monitor(const std::string& why) {
  if (listening_) return settle("");
  std::string text = why;
  const auto hidden = [](const qmp::MonitorSocket& monitor) { return monitor.folder_unknown; };
  const auto& monitors = process_.monitors;
  if (!monitors.empty() && std::none_of(monitors.begin(), monitors.end(), hidden))
    text += ": give QEMU another -qmp socket";
  text += "; watched by /proc only";
  if (!context_.no_listener.empty()) text += " (" + context_.no_listener + ")";
  settle(text);
}

void VmWatch::connect() {
  // A monitor that somebody holds is not queued for: we would take it from its owner when that restarts.
  monitors_.note_holders();
  const std::string target = asked_for_ ? monitors_.named(*asked_for_) : monitors_.nobodys();
  const bool held = listening_ ? monitors_.is_of_another(target) : !monitors_.held_by(target).empty();
  if (target.empty() || held) {
    retry_in_ = kHeldRetry;
    return settle_without_monitor(monitors_.why_none());
  }
  auto address = qmp::Address::parse(target);
  if (!address) return settle(to_string(address.error()));
  if (listening_ && address->kind == qmp::Address::Kind::tcp)
    context_.listener->leave_out_unknown(process_.pid);
  Link::Handlers handlers;
  handlers.on_ready = [this] { on_ready(); };
  handlers.on_failed = [this](const qmp::Failure& failure) { on_link_failed(failure); };
  handlers.on_event = [this](const qmp::Event& event) { on_event(event); };
  handlers.on_run_state = [this](const std::string& state) { on_run_state(state); };
  handlers.on_round_trip = [this](std::uint64_t rtt) { handlers_.on_round_trip(rtt); };
  link_ = std::make_unique<Link>(context_, id_, name(), std::move(*address), std::move(handlers));
  link_->start();
}

std::string VmWatch::of(const std::string& sentence) const {
  // A VM that only its socket names: the sentence begins with it.
  const std::string whose = name();
  std::string_view socket = whose;
  if (socket.starts_with("unix:")) socket.remove_prefix(5);
  return sentence.starts_with(socket) ? sentence : whose + ": " + sentence;
}

void VmWatch::settle(const std::string& failure) {
  if (std::exchange(settled_, true)) return;
  handlers_.on_settled(failure);
}

void VmWatch::on_ready() {
  if (settled_ && failures_ > 0) context_.say(name() + ": its monitor answers now: watching by " + monitor());
  failures_ = 0;
  if (process_.pid == 0 && link_->peer_pid() != 0) handlers_.on_pid(link_->peer_pid());
  ask_identity();
  link_->ask("query-status", {}, [](const auto&) {});
  ask_migration();
  learn_roles();
  refresh_nodes();
  settle("");
}

void VmWatch::ask_migration() {
  link_->ask("query-migrate", {}, [this](const qmp::Result<qmp::Reply>& reply) {
    if (!reply || !reply->value.is_object()) return;
    const auto* status = reply->value.get_object().if_contains("status");
    // Without one there has been no migration; completed, failed and cancelled are its ends.
    migrates_ = status && status->is_string() &&
                (status->get_string() == "active" || status->get_string() == "setup");
  });
}

void VmWatch::ask_identity() {
  if (!process_.name.empty() && !process_.uuid.empty()) return;
  const auto take = [this](const char* member, std::string qmp::QemuProcess::*field) {
    return [this, member, field](const qmp::Result<qmp::Reply>& reply) {
      if (!reply || !reply->value.is_object()) return;
      const auto* value = reply->value.get_object().if_contains(member);
      if (!value || !value->is_string() || !(process_.*field).empty()) return;
      process_.*field = std::string(value->get_string());
      link_->rename(name());
      record_seen();
    };
  };
  link_->ask("query-name", {}, take("name", &qmp::QemuProcess::name));
  if (process_.pid == 0) link_->ask("query-uuid", {}, take("UUID", &qmp::QemuProcess::uuid));
}

void VmWatch::learn_roles() {
  const auto take = [this](const char* tid_member, const char* index_member, trace::ThreadRole role) {
    return [this, tid_member, index_member, role](const qmp::Result<qmp::Reply>& reply) {
      if (!reply || !reply->value.is_array()) return;
      for (const auto& entry : reply->value.get_array()) {
        const auto* object = entry.if_object();
        const auto* tid = object ? object->if_contains(tid_member) : nullptr;
        const auto* index = object ? object->if_contains(index_member) : nullptr;
        if (!tid || !tid->is_int64()) continue;
        const auto vcpu = index && index->is_int64() ? static_cast<std::int32_t>(index->get_int64()) : -1;
        roles_[static_cast<std::uint32_t>(tid->get_int64())] = {role, vcpu};
      }
    };
  };
  link_->ask("query-cpus-fast", {}, take("thread-id", "cpu-index", trace::ThreadRole::vcpu));
  link_->ask("query-iothreads", {}, take("thread-id", "", trace::ThreadRole::iothread));
}

/// The map of nodes is needed before a pause, and asking for it looks at the storage: only when every file
/// known so far has answered.
void VmWatch::refresh_nodes() {
  if (nodes_pending_ || !link_ || !link_->healthy()) return;
  nodes_pending_ = true;
  reach_nodes(context_, *this, [this, alive = std::weak_ptr(alive_)](const Reach& reach) {
    if (alive.expired()) return;
    nodes_pending_ = false;
    if (!link_ || !link_->healthy()) return;
    const std::string reason = reach.all_reached ? hung_storage() : reach.reason;
    if (!reason.empty()) return link_->withhold("query-named-block-nodes", reason);
    link_->ask("query-fdsets", {}, [this](const qmp::Result<qmp::Reply>& reply) {
      if (reply) fdsets_ = storage::parse_fdsets(reply->value);
    });
    boost::json::object flat;
    flat["flat"] = true;
    link_->ask("query-named-block-nodes", std::move(flat), [this](const qmp::Result<qmp::Reply>& reply) {
      if (reply) take_nodes(reply->value);
    });
  });
}

void VmWatch::take_nodes(const boost::json::value& named_block_nodes) {
  if (auto nodes = storage::parse_named_block_nodes(named_block_nodes); !nodes.empty())
    nodes_ = std::move(nodes);
  if (process_.pid != 0 && !gone_)
    context_.links->learn(id_, process_.pid, storage::parse_server_nodes(named_block_nodes));
}

std::string VmWatch::descriptor_path(const std::string& path) const {
  for (const auto& [set, fd] : fdsets_)
    if (set == path) return "/proc/" + std::to_string(process_.pid) + "/fd/" + std::to_string(fd);
  return path;
}

void VmWatch::on_event(const qmp::Event& event) {
  handlers_.on_event(event);
  if (event.name == "MIGRATION") ask_migration();
  if (changes_nodes(event.name)) refresh_nodes();
}

void VmWatch::on_run_state(const std::string& state) {
  if (std::exchange(run_state_, state) != state) handlers_.on_run_state(state);
}

void VmWatch::on_link_failed(const qmp::Failure& failure) {
  ++failures_;
  const bool held = failure.code == qmp::Errc::monitor_held;
  const bool missing =
      held || failure.code == qmp::Errc::greeting_missing || failure.code == qmp::Errc::connect_timeout;
  const bool no_socket = failure.code == qmp::Errc::no_socket;
  const bool soon = failure.code == qmp::Errc::disconnected || (no_socket && failures_ <= kYoung);
  retry_in_ = soon ? kLostRetry : kHeldRetry;
  // A QEMU that was just started has not made its socket yet.
  if (no_socket && process_.pid != 0 && !link_->ever_ready() && failures_ < kYoung) return;
  if (missing && process_.pid == 0 && link_->peer_pid() != 0) handlers_.on_pid(link_->peer_pid());
  std::string text = to_string(failure);
  if (missing) {
    const std::string holder = monitors_.held_by(link_->address());
    drop_link_ = held || !holder.empty();
    if (drop_link_) monitors_.leave_to(link_->address(), holder.empty() ? kSomebody : holder);
    if (!held && !holder.empty()) text += " (held by " + holder + ")";
  }
  const bool stuck = missing || failure.code == qmp::Errc::negotiation_timeout;
  if (const std::string remedy = stuck ? "" : qmp::remedy(failure); !remedy.empty()) text += "; " + remedy;
  if (process_.pid != 0)
    text += listening_ ? "; listening to it, and watching by /proc" : "; watched by /proc meanwhile";
  if (settled_ && !gone_ && failures_ == 1) context_.say(of(text));
  settle(text);
  // Without a process there is nothing else to watch.
  const bool hopeless = !link_->ever_ready() && !missing;
  if (process_.pid == 0 && !ended_ && (hopeless || failures_ >= kGoneAfter)) {
    ended_ = true;
    handlers_.on_ended();
  }
}

void VmWatch::learn(qmp::QemuProcess process) {
  if (process_.pid != 0 && process_.pid != process.pid) return;
  if (process.name.empty()) process.name = process_.name;
  if (process.uuid.empty()) process.uuid = process_.uuid;
  const bool first = process_.pid == 0;
  process_ = std::move(process);
  if (nodes_.empty()) nodes_ = storage::from_command_line(process_.disks);
  if (link_) link_->rename(name());
  record_seen();
  if (first) watch_process();
}

void VmWatch::on_exit(const trace::VmEnd& end, const std::string& how) {
  gone_ = true;
  if (context_.ledger) context_.ledger->drain();
  if (context_.ledger) context_.ledger->unwatch(process_.pid);
  if (context_.calls) context_.calls->drain();
  if (context_.calls) context_.calls->unwatch(process_.pid);
  context_.links->forget(id_);
  if (listening_) context_.listener->unwatch(process_.pid);
  context_.recorder.add(trace::make_record(clock::now_ns(), id_, end, how));
  if (link_) link_->close();
  settle("it has ended");
  collect();
}

// ---- sampling ----

void VmWatch::tick(bool thorough, bool beat) {
  if (gone_ || ended_) return;
  // Who has answered what it was asked is neither stopped nor frozen.
  const bool answered = link_ && link_->healthy() && waiting_ns() < kPatience;
  const bool sick = !blocked_.empty() || last_state_ == 'T' || last_state_ == 't' ||
                    last_freezer_ == trace::FreezerState::frozen;
  if (watched_by_process() && (thorough || !answered || sick)) {
    const std::uint64_t now = clock::now_ns();
    sample_process(now);
    sample_threads(now);
  }
  if (drop_link_) link_.reset();
  if (link_ && beat) link_->beat();
  // How much it throttles the vCPUs no event tells.
  if (link_ && beat && migrates_ && link_->ready() && answered) ask_migration();
  if (link_ && link_->ready()) return;
  const bool waiting = link_ && retry_in_ == 0;
  if (waiting || --retry_in_ > 0) return;
  // The handler that tells of a failure runs within the link: it is replaced only here.
  if (!asked_for_ && process_.pid != 0 && handlers_.on_pid) handlers_.on_pid(process_.pid);
  link_.reset();
  drop_link_ = false;
  retry_in_ = 0;
  connect();
}

void VmWatch::sample_process(std::uint64_t now) {
  const auto stat = watch_.sample();
  if (!stat) return;  // The pidfd tells of its end.
  const bool stopped = stat->state == 't' || stat->state == 'T';
  const std::uint32_t tracer = stopped ? host::tracer_of(process_.pid) : 0;
  const auto kind = [](char state) { return state == 'R' || state == 'S' ? 'S' : state; };
  if (kind(stat->state) != kind(last_state_) || tracer != last_tracer_)
    context_.recorder.add(watch_.record(now, id_));
  last_state_ = stat->state;
  last_tracer_ = tracer;
  cgroup_.refresh();
  const trace::FreezerState freezer = cgroup_.freezer();
  if (freezer != last_freezer_) context_.recorder.add(cgroup_.record(now, id_));
  last_freezer_ = freezer;
}

void VmWatch::sample_threads(std::uint64_t now) {
  std::map<std::uint32_t, Blocked> blocked;
  for (const host::ThreadSample& sample : host::sample_threads(process_.pid)) {
    const bool in_d = sample.state == 'D' || sample.waits_for_fuse;
    const auto before = blocked_.find(sample.tid);
    if (!in_d && before == blocked_.end()) continue;
    const auto record = host::thread_record(process_.pid, sample.tid, roles_, now, id_);
    const std::uint64_t switches = record.view().as<trace::ThreadState>().switches;
    const bool stands = before != blocked_.end() && before->second.switches == switches;
    if (in_d) blocked[sample.tid] = {stands ? before->second.since_ns : now, switches};
    context_.recorder.add(record);
  }
  blocked_ = std::move(blocked);
}

std::string VmWatch::hung_storage() const {
  const std::uint64_t now = clock::now_ns();
  for (const auto& [tid, thread] : blocked_)
    if (now >= thread.since_ns + kHung)
      return fmt::format("thread {} has waited for storage for {}", tid,
                         human_duration(static_cast<std::int64_t>(now - thread.since_ns)));
  const auto oldest = context_.ledger ? context_.ledger->oldest(process_.pid) : std::nullopt;
  if (oldest && now >= oldest->began_ns + kHung)
    return fmt::format("{} has had a request under way for {}",
                       oldest->path.empty() ? "a file" : oldest->path,
                       human_duration(static_cast<std::int64_t>(now - oldest->began_ns)));
  return context_.links->silent(id_);
}

// ---- collecting ----

void VmWatch::collect() {
  if (ended_) return;
  const std::uint64_t now = clock::now_ns();
  const bool too_soon = now < last_collection_ns_ + kCollectionDistance && !gone_ && last_collection_ns_ != 0;
  if (collector_ || too_soon) {
    again_ = true;
    if (!collector_) {
      // A pause loop: the next tick would be too late for its report.
      run_later(context_, std::chrono::nanoseconds(last_collection_ns_ + kCollectionDistance - now),
                [this, alive = std::weak_ptr(alive_)] {
                  if (alive.expired() || collector_ || !std::exchange(again_, false)) return;
                  collect();
                });
    }
    return;
  }
  again_ = false;
  collector_ = std::make_shared<Collector>(context_, *this, [this] { on_collected(); });
  collector_->start();
}

void VmWatch::on_collected() {
  const bool saw_end = collector_->saw_end();
  collector_.reset();
  last_collection_ns_ = clock::now_ns();
  if (gone_ && !saw_end) return collect();
  if (gone_) {
    ended_ = true;
    handlers_.on_ended();
    return;
  }
  if (std::exchange(again_, false)) collect();
}

void VmWatch::finish(const std::string& reason) {
  if (context_.ledger) context_.ledger->drain();
  if (context_.ledger) context_.ledger->unwatch(process_.pid);
  if (context_.calls) context_.calls->drain();
  if (context_.calls) context_.calls->unwatch(process_.pid);
  context_.links->forget(id_);
  if (listening_ && !gone_) context_.listener->unwatch(process_.pid);
  if (collector_) collector_->abandon();
  context_.recorder.add(watch_record(clock::now_ns(), id_, trace::WatchEvent::end, reason));
}

}  // namespace vmwhy::qmp_pausewatch
