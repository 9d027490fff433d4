// SPDX-License-Identifier: BSD-2-Clause
#include "tools/vm-iowatch/session.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <ostream>

#include "clock/clock.hpp"
#include "core/text.hpp"
#include "host/threads.hpp"
#include "record/secrets.hpp"
#include "tools/vm-iowatch/output.hpp"
#include "tools/vm-iowatch/stats_records.hpp"

namespace vmwhy::vm_iowatch {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
/// A hang is told within this after it has crossed the threshold.
constexpr std::chrono::milliseconds kTick{50};
/// Of several failures of a burst only the first calls for another look at the files.
constexpr std::uint64_t kLookPause = kSecond;
/// Sockets of storage servers are looked at so often.
constexpr std::uint64_t kLinkPause = kSecond / 4;

/// How long this thread has had a CPU.
std::uint64_t thread_cpu_ns() {
  timespec at{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
  return static_cast<std::uint64_t>(at.tv_sec) * kSecond + static_cast<std::uint64_t>(at.tv_nsec);
}

boost::json::object trace_meta(const Options& options) {
  utsname kernel{};
  ::uname(&kernel);
  return {{"tool", "vm-iowatch"},
          {"version", cli::version()},
          {"args", record::mask_secrets(options.args)},
          {"host", boost::json::object{{"name", kernel.nodename},
                                       {"kernel", kernel.release},
                                       {"kernel_version", kernel.version},
                                       {"machine", kernel.machine}}}};
}

}  // namespace

Session::Session(const Options& options, std::ostream& out, std::ostream& err)
    : options_(options),
      out_(out),
      err_(err),
      signals_(io_, SIGINT, SIGTERM),
      interval_(io_),
      tick_(io_),
      end_(io_) {}

Session::~Session() = default;

void Session::complain(const std::string& text) {
  err_ << "vm-iowatch: " << printable(text) << "\n" << std::flush;
}

std::string Session::wall(std::uint64_t time_ns) const {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const std::int64_t real = now.tv_sec * static_cast<std::int64_t>(kSecond) + now.tv_nsec;
  return iso_time(real - static_cast<std::int64_t>(clock::now_ns() - time_ns));
}

int Session::open_trace() {
  std::unique_ptr<trace::Writer> writer;
  if (!options_.output.empty()) {
    auto created = trace::Writer::create(options_.output, trace_meta(options_));
    if (!created) {
      complain(to_string(created.error()));
      return cli::kEnvironment;
    }
    writer = std::move(*created);
  }
  recorder_ = std::make_unique<record::Recorder>(std::move(writer), [this](const trace::RecordView& record) {
    if (events_) events_->take(record);
    if (link_events_) link_events_->take(record);
  });
  return cli::kOk;
}

void Session::record_start() {
  const auto snapshot = clock::take_snapshot(trace::ClockReason::start);
  last_clock_ns_ = snapshot.boottime_ns;
  recorder_->add(trace::make_record(snapshot.boottime_ns, 0, snapshot));
  const std::uint64_t now = clock::now_ns();
  trace::Watch watch{};
  watch.event = static_cast<std::uint32_t>(trace::WatchEvent::begin);
  recorder_->add(trace::make_record(now, 0, watch, "vm-iowatch"));
  recorder_->add(
      host::sensor_record(now, {"qmp", trace::SensorState::on, 0, "monitors of the VMs watched", ""}));
  for (const host::SensorReport& sensor : sensors_) recorder_->add(host::sensor_record(now, sensor));
}

void Session::note_sensors() {
  if (options_.quiet || options_.map) return;
  for (const host::SensorReport& sensor : sensors_) {
    const bool matters = sensor.name == "bpf" || sensor.name == "reach";
    if (!matters || sensor.state == trace::SensorState::on) continue;
    complain("note: " + sensor.detail + (sensor.remedy.empty() ? "" : "; " + sensor.remedy));
  }
}

int Session::prepare() {
  // Forks: before any thread exists.
  if (auto probe = host::StorageProbe::start()) probe_ = std::move(*probe);
  sensors_ = host::probe_sensors();
  auto targets = find_targets(options_);
  if (!targets) {
    complain(to_string(targets.error()));
    return cli::kEnvironment;
  }
  if (targets->empty()) {
    complain("no QEMU runs on this host");
    return cli::kEnvironment;
  }
  storage::Ledger::Opened opened{nullptr, storage::Ledger::switched_off()};
  storage::LedgerOptions wanted;
  wanted.syscall_probes = options_.syscall_probes;
  wanted.rows = kRows;
  wanted.slow_ns = static_cast<std::uint64_t>(options_.slow.count());
  wanted.hang_ns = static_cast<std::uint64_t>(options_.hang.count());
  if (!options_.no_bpf && !options_.map) opened = storage::Ledger::open(wanted);
  ledger_ = std::move(opened.ledger);
  sensors_.push_back(std::move(opened.sensor));
  note_sensors();
  if (const int code = open_trace()) return code;
  if (probe_) probe_->attach(io_);
  record_start();
  stack_.emplace();
  table_ = std::make_unique<Table>(ledger_ ? &ledger_->probes() : nullptr, ledger_ && ledger_->sees_calls());
  const auto find_vm = [this](std::uint32_t id) -> const Vm* {
    const auto at = vms_.find(id);
    return at == vms_.end() ? nullptr : at->second.get();
  };
  const auto on_each = [this](const Event& event) { on_event(event); };
  events_ = std::make_unique<Events>(find_vm, *stack_, options_.node, on_each);
  link_events_ = std::make_unique<LinkEvents>(find_vm, static_cast<std::uint64_t>(options_.slow.count()),
                                              options_.node, on_each);
  links_ =
      std::make_unique<storage::ServerLinks>(*recorder_, static_cast<std::uint64_t>(options_.hang.count()),
                                             [this](std::uint32_t vm, const std::vector<std::string>& nodes) {
                                               return progress_.waits(vm, nodes, clock::now_ns());
                                             });
  if (ledger_) ledger_->start(io_, *recorder_);
  if (!options_.map)
    if (auto kmsg =
            host::Kmsg::open(io_, [this](const trace::OwnedRecord& record) { recorder_->add(record); }))
      kmsg_ = std::move(*kmsg);
  std::uint32_t id = 0;
  for (Target& target : *targets) {
    ++id;
    Vm::Handlers handlers;
    handlers.on_learned = [this, id] { on_learned(*vms_.at(id)); };
    handlers.on_event = [this, id](const qmp::Event& event) { on_qmp_event(*vms_.at(id), event); };
    handlers.on_running = [this, id](bool running) { progress_.set_running(id, running); };
    handlers.on_blockstats = [this, id](const boost::json::value& value) {
      on_blockstats(*vms_.at(id), value);
    };
    if (ledger_) ledger_->watch(target.process.pid, id);
    vms_[id] = std::make_unique<Vm>(Context{io_, *recorder_, probe_.get()}, id, std::move(target),
                                    std::move(handlers));
    learned_[id] = false;
  }
  return cli::kOk;
}

void Session::on_learned(Vm& vm) {
  table_->learn(vm, options_.node, *stack_);
  events_->learn(vm);
  if (!options_.map) links_->learn(vm.id(), vm.pid(), vm.servers());
  node_found_ = node_found_ || options_.node.empty() || vm.map().graph.nodes.contains(options_.node);
  learned_[vm.id()] = true;
  open_files_[vm.id()] = open_files(vm.pid());
  const bool all =
      std::all_of(learned_.begin(), learned_.end(), [](const auto& entry) { return entry.second; });
  if (!all || watching_ || stopping_) return;
  if (!node_found_) {
    complain("no VM watched has the block node '" + options_.node + "'; --map shows the nodes");
    exit_code_ = cli::kEnvironment;
    return stop("no such node");
  }
  if (options_.map) {
    print_maps();
    return stop("done");
  }
  watch();
}

void Session::print_maps() {
  for (const auto& entry : vms_) {
    const Vm& vm = *entry.second;
    const auto map = storage::map_vm(vm.map(), *stack_, options_.node);
    if (!map) continue;
    if (options_.json)
      print_json(out_, map_json(*map, vm.name(), clock::now_ns()));
    else
      out_ << host::to_text(*map);
  }
}

void Session::watch() {
  watching_ = true;
  if (!options_.quiet)
    for (const auto& entry : vms_)
      complain("watching " + entry.second->name() + " (pid " + std::to_string(entry.second->pid()) + ")" +
               (entry.second->map().note.empty() ? "" : ": " + entry.second->map().note));
  if (table_->left_out() != 0)
    complain(std::to_string(table_->left_out()) + " files and disks are too many to be counted one by one");
  last_sample_ns_ = clock::now_ns();
  table_->sample(last_sample_ns_);
  for (const auto& entry : vms_) entry.second->ask_blockstats();
  every_interval();
  every_tick();
  if (options_.duration.count() == 0) return;
  end_.expires_after(options_.duration);
  end_.async_wait([this](const boost::system::error_code& error) {
    if (!error) stop("the time is over");
  });
}

void Session::on_qmp_event(Vm& vm, const qmp::Event& event) {
  if (ledger_) ledger_->drain();
  events_->take(vm, event);
  const bool changed = event.name.rfind("BLOCK_JOB", 0) == 0 || event.name == "DEVICE_DELETED" ||
                       event.name == "DEVICE_TRAY_MOVED" || event.name == "JOB_STATUS_CHANGE";
  if (changed) vm.learn();
  if (event.name == "STOP" || event.name == "RESUME") progress_.set_running(vm.id(), event.name == "RESUME");
  if (event.name != "BLOCK_IO_ERROR" && event.name != "STOP") return;
  const std::uint64_t now = clock::now_ns();
  links_->look(now, vm.id());
  if (now < last_look_ns_ + kLookPause && event.name != "STOP") return;
  last_look_ns_ = now;
  vm.look_again();
}

void Session::on_event(const Event& event) {
  if (!watching_) return;
  if (options_.json)
    print_json(out_, to_json(event));
  else
    print_event(out_, event, wall(event.time_ns));
}

void Session::every_tick() {
  const std::uint64_t now = clock::now_ns();
  if (ledger_) {
    ledger_->look();
    events_->look(ledger_->probes().block_under_way(), now, static_cast<std::uint64_t>(options_.hang.count()),
                  false);
  }
  if (now >= last_clock_ns_ + kSecond) {
    last_clock_ns_ = now;
    recorder_->add(trace::make_record(now, 0, clock::take_snapshot(trace::ClockReason::tick)));
    const bool alive = std::any_of(vms_.begin(), vms_.end(), [](const auto& entry) {
      return ::kill(static_cast<pid_t>(entry.second->pid()), 0) == 0 || errno != ESRCH;
    });
    if (!alive) return stop("every VM has ended");
    if (const auto error = recorder_->take_error()) complain(*error);
  }
  if (now >= threads_due_ns_) {
    const std::uint64_t before = thread_cpu_ns();
    look_at_threads(now);
    // A hundredth of a CPU is enough to spend on it.
    threads_due_ns_ = now + std::clamp<std::uint64_t>(100 * (thread_cpu_ns() - before), 1, kSecond);
  }
  look_at_links(now);
  tick_.expires_after(kTick);
  tick_.async_wait([this](const boost::system::error_code& error) {
    if (!error && !stopping_) every_tick();
  });
}

/// Where system calls are not followed, a thread that does not come back is what can be seen of a hang.
void Session::look_at_threads(std::uint64_t now) {
  decltype(waiting_) still;
  for (const auto& entry : vms_) {
    const std::uint32_t pid = entry.second->pid();
    for (const host::ThreadSample& thread : host::sample_threads(pid)) {
      if (thread.state != 'D' && !thread.waits_for_fuse) continue;
      const trace::OwnedRecord record = host::thread_record(pid, thread.tid, {}, now, entry.first);
      const std::uint64_t switches = record.view().as<trace::ThreadState>().switches;
      Waiting& state = still[{pid, thread.tid}];
      const auto before = waiting_.find({pid, thread.tid});
      const bool stands = before != waiting_.end() && before->second.switches == switches;
      state = stands ? before->second : Waiting{now, switches, false};
      if (state.told || state.since_ns + static_cast<std::uint64_t>(options_.hang.count()) > now) continue;
      state.told = true;
      recorder_->add(record);
      entry.second->look_again();
      Event event;
      event.kind = "hang";
      event.time_ns = now;
      event.vm = entry.second->name();
      event.layer = "fs";
      event.latency_ns = now - state.since_ns;
      const std::string wchan(trace::text_field(record.text, 1));
      event.chain.push_back(boost::json::object{{"layer", "fs"}, {"thread", thread.tid}, {"wchan", wchan}});
      event.text = fmt::format("thread {} waits in the kernel ({}) for {} by now", thread.tid,
                               wchan.empty() ? "where is not shown" : wchan,
                               human_duration(static_cast<std::int64_t>(*event.latency_ns)));
      if (options_.node.empty()) on_event(event);
    }
  }
  waiting_ = std::move(still);
}

void Session::look_at_links(std::uint64_t now) {
  const auto due = links_->next_hang_ns();
  const bool hangs = due && *due <= now && *due > looked_at_links_ns_;
  if (now < looked_at_links_ns_ + kLinkPause && !hangs) return;
  looked_at_links_ns_ = now;
  links_->look(now);
}

void Session::on_blockstats(Vm& vm, const boost::json::value& blockstats) {
  const std::uint64_t now = clock::now_ns();
  table_->take(vm, blockstats, now);
  progress_.take(vm.id(), blockstats, now);
  std::vector<std::string> nodes;
  for (const storage::ServerNode& server : vm.servers()) nodes.push_back(server.node);
  vm.ask_queues(
      progress_.questions(vm.id(), nodes),
      [this, id = vm.id()](const storage::GuestProgress::Queue& queue, const boost::json::value* status) {
        progress_.take(id, queue, status, clock::now_ns());
      });
}

void Session::hang_again(std::uint64_t now) {
  link_events_->again();
  if (!ledger_) return;
  for (const trace::OwnedRecord& record : ledger_->hanging(now)) events_->take(record.view());
  events_->look(ledger_->probes().block_under_way(), now, static_cast<std::uint64_t>(options_.hang.count()),
                true);
}

void Session::every_interval() {
  interval_.expires_after(options_.interval);
  interval_.async_wait([this](const boost::system::error_code& error) {
    if (error || stopping_) return;
    const std::uint64_t now = clock::now_ns();
    const auto groups = table_->sample(now);
    record_stats(*recorder_, groups, now, now - last_sample_ns_);
    links_->look(now, storage::ServerLinks::kAll);
    const auto links = link_events_->lines(links_->links());
    if (options_.json) {
      print_stats_json(out_, groups, now, now - last_sample_ns_);
      print_links_json(out_, links, now, now - last_sample_ns_);
    } else {
      const bool waiting = std::ranges::any_of(links, waits);
      print_links(out_, links, print_table(out_, groups, wall(now), now - last_sample_ns_, waiting));
    }
    last_sample_ns_ = now;
    hang_again(now);
    for (const auto& entry : vms_) {
      // Snapshots and hot plug need no event to change what lies under the nodes.
      if (open_files(entry.second->pid()) != open_files_[entry.first])
        entry.second->learn();
      else
        entry.second->ask_blockstats();
    }
    every_interval();
  });
}

void Session::stop(const std::string& reason) {
  if (std::exchange(stopping_, true)) return;
  stop_reason_ = reason;
  io_.stop();
}

int Session::run() {
  // A reader that goes away must not cost the trace its end.
  ::signal(SIGPIPE, SIG_IGN);
  if (const int code = prepare()) return code;
  signals_.async_wait([this](const boost::system::error_code& error, int number) {
    if (error) return;
    ::signal(number, SIG_DFL);
    stop("interrupted");
  });
  for (const auto& entry : vms_) entry.second->start();
  io_.run();
  return finish();
}

int Session::finish() {
  if (ledger_) ledger_->drain();
  if (kmsg_) kmsg_->drain();
  for (const auto& entry : vms_) entry.second->finish("the run ended: " + stop_reason_);
  trace::Watch watch{};
  watch.event = static_cast<std::uint32_t>(trace::WatchEvent::end);
  recorder_->add(trace::make_record(clock::now_ns(), 0, watch, stop_reason_));
  const auto snapshot = clock::take_snapshot(trace::ClockReason::end);
  recorder_->add(trace::make_record(snapshot.boottime_ns, 0, snapshot));
  if (ledger_) {
    const std::uint64_t lost = ledger_->probes().losses().lost();
    if (lost != 0) complain(std::to_string(lost) + " failures did not fit into the ring and are not shown");
  }
  trace::Writer* writer = recorder_->writer();
  if (writer == nullptr) return exit_code_;
  const auto written = writer->close();
  if (!written) {
    if (recorder_->take_error()) complain(to_string(written.error()));
    return cli::kFailed;
  }
  if (!options_.quiet)
    complain(
        fmt::format("{} records in {} ({})", written->records, options_.output, human_bytes(written->bytes)));
  return exit_code_;
}

}  // namespace vmwhy::vm_iowatch
