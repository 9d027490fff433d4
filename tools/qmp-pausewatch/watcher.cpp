// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/watcher.hpp"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <boost/asio/post.hpp>
#include <ostream>
#include <thread>

#include "clock/clock.hpp"
#include "core/text.hpp"
#include "host/pressure.hpp"
#include "render/render.hpp"
#include "tools/qmp-pausewatch/trace_file.hpp"
#include "trace/record.hpp"

namespace vmwhy::qmp_pausewatch {
namespace {

constexpr std::chrono::milliseconds kSlice{100};
/// Threads and processes of so many VMs are looked at each second although their monitors answer. With more
/// VMs each has its turn every few seconds: 500 VMs must not cost more than 16 do.
constexpr std::size_t kThoroughPerSecond = 16;
/// So many monitors are asked query-status each second; with more of them each has its turn every few
/// seconds.
constexpr std::size_t kBeatsPerSecond = 64;
/// How long the end of a run waits for collections under way, in steps of 50 ms.
constexpr int kLastWaits = 30;

/// How many slices a command waits at most until it is known whether QEMU's functions are followed.
constexpr int kAttachWaits = 50;

/// A storage server that has not answered for so long hangs.
constexpr std::uint64_t kServerHangs = 5'000'000'000;

/// A process that is no QEMU yet is looked at so often, at this distance.
constexpr int kYoungLooks = 10;
constexpr std::chrono::milliseconds kYoungPause{50};

/// A monitor, a pidfd and two /proc files for each VM: the usual soft limit of 1024 is not enough for 500.
void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

Watcher::Watcher(const Options& options, std::ostream& out, std::ostream& err)
    : options_(options),
      out_(out),
      err_(err),
      timer_(io_),
      end_timer_(io_),
      signals_(io_),
      reporter_(out, options.json, options.quiet, cli::use_color(options.color, STDOUT_FILENO), analysis_),
      targets_(options) {}

Watcher::~Watcher() = default;

int Watcher::run() {
  if (no_such_pid()) return options_.expect ? static_cast<int>(kCannotTell) : cli::kEnvironment;
  raise_file_limit();
  // On a host that is short of CPU the evidence of a pause is needed most. The helper inherits it; commands
  // do not.
  if (::getpriority(PRIO_PROCESS, 0) == 0) ::setpriority(PRIO_PROCESS, 0, act::kWatcherNice);
  // A reader that goes away must not cost the trace its end.
  ::signal(SIGPIPE, SIG_IGN);
  // Both fork: before any thread exists.
  if (auto probe = host::StorageProbe::start()) probe_ = std::move(*probe);
  sensors_ = host::probe_sensors();
  // After the helper was forked, which would keep the probes open.
  storage::Ledger::Opened opened{nullptr, storage::Ledger::switched_off()};
  if (!options_.no_bpf) opened = storage::Ledger::open({.syscall_probes = options_.syscall_probes});
  sensors_.push_back(std::move(opened.sensor));
  Listener::Opened heard{nullptr, Listener::switched_off()};
  if (!options_.no_bpf) heard = Listener::open();
  sensors_.push_back(heard.sensor);
  qemu::Calls::Opened calls{nullptr, qemu::Calls::switched_off()};
  if (!options_.no_bpf) calls = qemu::Calls::open();
  sensors_.push_back(std::move(calls.sensor));
  const auto found = qmp::find_qemus();
  if (nothing_to_watch(found) || !open_trace(found)) return cli::kEnvironment;

  context_ = std::make_unique<Context>(
      Context{io_, options_, *recorder_, err_, nullptr, nullptr, nullptr, std::move(opened.ledger), {}, {}});
  context_->links = std::make_unique<storage::ServerLinks>(
      *recorder_, kServerHangs,
      [](std::uint32_t, const std::vector<std::string>&) { return storage::GuestWaits{}; });
  listen(std::move(heard));
  context_->mounts = host::find_cgroup_mounts();
  context_->probe = std::move(probe_);
  if (context_->probe) context_->probe->attach(io_);
  for (const auto& sensor : sensors_)
    if (sensor.name == "psi") context_->psi = sensor.state == trace::SensorState::on;
  if (!host::pidfd_tells_exit())
    if (auto connector = host::ProcessConnector::open(io_)) context_->connector = std::move(*connector);
  record_start();
  if (!options_.no_bpf) say_what_is_off();
  if (context_->ledger) context_->ledger->start(io_, *recorder_);
  if (calls.calls && calls.calls->start(io_, *recorder_)) context_->calls = std::move(calls.calls);
  if (auto kmsg = host::Kmsg::open(io_, [this](const trace::OwnedRecord& record) { recorder_->add(record); }))
    context_->kmsg = std::move(*kmsg);
  reporter_.on_report = [this](const causes::Incident& incident) { on_report(incident); };

  scout_ = std::make_unique<Scout>(io_);
  signals_.add(SIGINT);
  signals_.add(SIGTERM);
  signals_.async_wait([this](const boost::system::error_code& error, int number) {
    if (error) return;
    signals_.async_wait([number](const boost::system::error_code& again, int) {
      if (!again) ::_exit(128 + number);
    });
    stop("interrupted");
  });
  add(targets_.take(found));
  for (const std::string& sentence : targets_.missing())
    waits() ? context_->say("waiting for " + sentence.substr(0, sentence.find(": ")))
            : context_->complain(sentence);
  command_due_ = options_.expect.has_value();
  if (options_.duration.count() > 0) {
    end_timer_.expires_after(options_.duration);
    end_timer_.async_wait([this](const boost::system::error_code& error) {
      if (!error) stop("the time is over");
    });
  }
  if (options_.all && vms_.empty()) context_->say("no QEMU runs here yet; waiting");
  slice();
  io_.run();
  finish();
  return exit_code();
}

bool Watcher::waits() const {
  return options_.all || options_.expect || options_.duration.count() > 0;
}

/// A QEMU that is named by its process id cannot come later.
bool Watcher::no_such_pid() {
  for (const std::uint32_t pid : options_.pids) {
    auto process = qmp::inspect_qemu(pid);
    // A script's `qemu … & qmp-pausewatch -p $!` may be faster than the shell's execve.
    for (int i = 0; i < kYoungLooks && !process && ::kill(static_cast<pid_t>(pid), 0) == 0; ++i) {
      std::this_thread::sleep_for(kYoungPause);
      process = qmp::inspect_qemu(pid);
    }
    if (process) continue;
    err_ << "qmp-pausewatch: " << printable(to_string(process.error()))
         << "; qmp-call --list shows the QEMUs there are\n";
    return true;
  }
  return false;
}

void Watcher::listen(Listener::Opened opened) {
  context_->listener = std::move(opened.listener);
  context_->no_listener =
      opened.sensor.detail + (opened.sensor.remedy.empty() ? "" : "; " + opened.sensor.remedy);
  if (!context_->listener) return;
  const auto overdue = static_cast<std::uint64_t>(options_.qmp_deadline.count());
  if (auto done = context_->listener->start(io_, *recorder_, overdue); !done) {
    context_->no_listener = to_string(done.error());
    context_->listener.reset();
    recorder_->add(host::sensor_record(clock::now_ns(),
                                       {"tap", trace::SensorState::failed, 0, context_->no_listener, ""}));
  }
}

/// Who starts it without rights hears at once what that costs, and not from the first verdict's end.
void Watcher::say_what_is_off() {
  std::string names, why;
  for (const auto& sensor : sensors_) {
    const bool probes = sensor.name == "bpf" || sensor.name == "tap" || sensor.name == "qemu";
    if (!probes || sensor.state != trace::SensorState::off) continue;
    names += (names.empty() ? "" : ", ") + sensor.name;
    if (why.empty()) why = sensor.detail + (sensor.remedy.empty() ? "" : "; " + sensor.remedy);
  }
  if (!names.empty()) context_->say("off: " + names + ": " + why + "; --check tells what each sees");
}

/// Said before a trace is made: a file without anything in it helps nobody.
bool Watcher::nothing_to_watch(const std::vector<qmp::QemuProcess>& found) {
  Targets targets(options_);
  if (waits() || !targets.take(found).empty()) return false;
  for (const std::string& sentence : targets.missing())
    err_ << "qmp-pausewatch: " << printable(sentence) << "\n";
  return true;
}

bool Watcher::open_trace(const std::vector<qmp::QemuProcess>& found) {
  std::unique_ptr<trace::Writer> writer;
  const bool wanted = !options_.no_output && (!options_.output.empty() || !options_.expect);
  if (wanted) {
    trace_path_ = options_.output.empty() ? default_trace_name(options_, Targets(options_).take(found))
                                          : options_.output;
    auto created = trace::Writer::create(trace_path_, trace_meta(options_));
    if (created) {
      writer = std::move(*created);
    } else {
      err_ << "qmp-pausewatch: " << printable(to_string(created.error())) << "\n";
      if (!options_.output.empty()) return false;
      err_ << "qmp-pausewatch: no trace is kept; name a file that can be written with -o\n";
      trace_path_.clear();
    }
  }
  analysis_.add_meta(trace_meta(options_));
  recorder_ = std::make_unique<record::Recorder>(std::move(writer), [this](const trace::RecordView& record) {
    analysis_.add(record);
    schedule_pump();
  });
  return true;
}

void Watcher::record_start() {
  record_clock();
  const std::uint64_t now = clock::now_ns();
  const auto begin = static_cast<std::uint32_t>(trace::WatchEvent::begin);
  recorder_->add(trace::make_record(now, 0, trace::Watch{begin, 0}, "qmp-pausewatch"));
  recorder_->add(
      host::sensor_record(now, {"qmp", trace::SensorState::on, 0, "monitors of the VMs watched", ""}));
  for (const auto& sensor : sensors_) recorder_->add(host::sensor_record(now, sensor));
  if (context_->psi)
    if (const auto record = host::host_pressure(now)) recorder_->add(*record);
}

void Watcher::record_clock() {
  auto snapshot = clock::take_snapshot(last_clock_ ? trace::ClockReason::tick : trace::ClockReason::start);
  if (last_clock_ && clock::realtime_stepped(*last_clock_, snapshot))
    snapshot.reason = static_cast<std::uint32_t>(trace::ClockReason::step);
  recorder_->add(trace::make_record(snapshot.boottime_ns, 0, snapshot));
  last_clock_ = snapshot;
}

// ---- VMs come and go ----

void Watcher::add(std::vector<Target> targets) {
  for (Target& target : targets)
    if (!stopping_) add_one(std::move(target));
}

void Watcher::add_one(Target target) {
  const std::uint32_t id = ++last_id_;
  VmWatch::Handlers handlers;
  const auto with = [this, id](auto use) {
    if (const auto found = vms_.find(id); found != vms_.end()) use(*found->second);
  };
  handlers.on_settled = [this, with](const std::string& failure) {
    with([&](VmWatch& vm) { on_settled(vm, failure); });
  };
  handlers.on_event = [this, with](const qmp::Event& event) {
    with([&](VmWatch& vm) { fire_matching(Condition::Kind::event, event.name, vm); });
  };
  handlers.on_run_state = [this, with](const std::string& state) {
    with([&](VmWatch& vm) { fire_matching(Condition::Kind::run_state, state, vm); });
  };
  handlers.on_round_trip = [this, with](std::uint64_t rtt) {
    with([&](VmWatch& vm) { check_rtt(vm, rtt); });
  };
  handlers.on_ended = [this, id] { boost::asio::post(io_, [this, id] { on_ended(id); }); };
  handlers.on_pid = [this, id](std::uint32_t pid) {
    if (!scout_) return;
    scout_->inspect(pid, [this, id](qmp::Result<qmp::QemuProcess> process) {
      const auto found = vms_.find(id);
      if (process && found != vms_.end()) found->second->learn(std::move(*process));
    });
  };
  unsettled_.insert(id);
  auto& vm = vms_[id] = std::make_unique<VmWatch>(*context_, id, std::move(target.process),
                                                  std::move(target.asked_for), handlers);
  by_slot_[id % kSlicesPerSecond].push_back(vm.get());
  vm->start();
}

void Watcher::on_settled(VmWatch& vm, const std::string& failure) {
  unsettled_.erase(vm.id());
  // Who names a monitor wants to hear it; who names a VM is content with what can be seen of it.
  if (failure.empty() || (vm.watched_by_process() && !vm.asked_for())) watched_any_ = true;
  if (!failure.empty()) {
    // What is tried again and again is told once.
    std::string& told = told_[vm.asked_for().value_or("")];
    if (!vm.asked_for() || std::exchange(told, failure) != failure) context_->complain(vm.of(failure));
    return;
  }
  std::string text = "watching " + vm.name();
  if (vm.pid() != 0) text += " (pid " + std::to_string(vm.pid()) + ")";
  text += " by " + vm.watched_by();
  if (!trace_path_.empty()) text += "; trace " + trace_path_;
  context_->say(text);
}

void Watcher::on_ended(std::uint32_t id) {
  const auto found = vms_.find(id);
  if (found == vms_.end()) return;
  pump();
  const bool never = !found->second->heard() && found->second->pid() == 0;
  found->second->finish(never ? "it could not be watched" : "QEMU ended");
  const auto asked_for = found->second->asked_for();
  targets_.ended(found->second->process());
  unsettled_.erase(id);
  std::erase(by_slot_[id % kSlicesPerSecond], found->second.get());
  vms_.erase(found);
  if (asked_for && waits()) targets_.expect_again(*asked_for);
  if (vms_.empty() && !waits()) stop("nothing is left to watch");
}

void Watcher::look_for_more() {
  if (scouting_ || stopping_) return;
  const bool names = targets_.waits();
  const bool sockets = targets_.sockets_came();
  if (sockets) {
    scouting_ = true;
    return scout_->find_all([this](const std::vector<qmp::QemuProcess>& found) {
      scouting_ = false;
      if (!stopping_) add(targets_.take(found));
    });
  }
  if ((!options_.all && !(names && !options_.names.empty())) || slices_ % kSlicesPerSecond != 0) return;
  scouting_ = true;
  scout_->find_new([this](const std::vector<qmp::QemuProcess>& found) {
    scouting_ = false;
    if (!stopping_) add(targets_.take(found));
  });
}

// ---- time ----

void Watcher::slice() {
  if (stopping_) return;
  timer_.expires_after(kSlice);
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) slice();
  });
  // Each VM has its second; they are spread so that 500 of them do not all ask at once.
  const std::uint64_t slot = slices_++ % kSlicesPerSecond;
  const std::uint64_t turn = slices_ / kSlicesPerSecond;
  const auto has_turn = [&](const VmWatch& vm, std::size_t per_second) {
    const std::uint64_t turns = (vms_.size() + per_second - 1) / per_second;
    return turns <= 1 || (vm.id() / kSlicesPerSecond) % turns == turn % turns;
  };
  for (VmWatch* vm : by_slot_[slot]) {
    vm->tick(has_turn(*vm, kThoroughPerSecond), has_turn(*vm, kBeatsPerSecond));
    const std::uint64_t waiting = vm->waiting_ns();
    if (waiting != 0) check_rtt(*vm, waiting);
  }
  if (slot == 0) every_second();
  const std::uint64_t now = clock::now_ns();
  const auto due = context_->links->next_hang_ns();
  if (due && *due <= now && *due + kSlice.count() * 2'000'000ull > now) context_->links->look(now);
  look_for_more();
  if (command_due_ && unsettled_.empty()) {
    // What it does first must not be over before QEMU's functions are followed.
    const bool attaching = context_->calls && context_->calls->attaching();
    if (!attaching || ++attach_waits_ > kAttachWaits) start_command();
  }
  watch_command();
}

void Watcher::every_second() {
  record_clock();
  if (context_->psi)
    if (const auto record = host::host_pressure(clock::now_ns())) recorder_->add(*record);
  if (context_->ledger) context_->ledger->look();
  context_->links->look(clock::now_ns());
  if (context_->listener) context_->listener->every_second();
  if (context_->calls) context_->calls->every_second();
  recorder_->flush();
  reporter_.look_back();
  for (const auto& [id, vm] : vms_) watched_any_ = watched_any_ || vm->heard();
  if (const auto error = recorder_->take_error())
    context_->complain("recording has ended: " + *error +
                       "; watching goes on, what was written stays readable");
  executed_.reap();
}

// ---- what the analysis says ----

void Watcher::schedule_pump() {
  if (std::exchange(pump_scheduled_, true)) return;
  boost::asio::post(io_, [this] { pump(); });
}

void Watcher::pump() {
  pump_scheduled_ = false;
  for (const causes::Change& change : analysis_.take_changes()) {
    if (change.what == causes::Change::What::opened) {
      ++incidents_;
      recorder_->flush();
      if (const auto found = vms_.find(change.vm); found != vms_.end() && !stopping_)
        found->second->collect();
    }
    reporter_.handle(change);
  }
  if (!out_) stop("nobody reads the reports any more");
}

void Watcher::on_report(const causes::Incident& incident) {
  if (options_.expect && !expect_code_ && options_.expect->matches(incident)) {
    // What was so before the command began is not its doing.
    if (!options_.command.empty() && (command_began_ns_ == 0 || incident.begin_ns < command_began_ns_)) {
      context_->say("that was so before the command began, and does not count");
    } else {
      expect_code_ = kCame;
      stop("the expected incident came");
    }
  }
  const auto found = vms_.find(incident.vm.id);
  // Its monitor may never have greeted; its process was seen.
  if (found != vms_.end() && found->second->pid() != 0) watched_any_ = true;
  for (std::size_t i = 0; i < options_.triggers.size(); ++i) {
    const Condition& condition = options_.triggers[i].condition;
    if (condition.kind == Condition::Kind::cause && condition.name == incident.verdict.cause)
      fire(i, found == vms_.end() ? nullptr : found->second.get(), incident.vm.name);
  }
  if (options_.once) stop("one incident was reported");
}

// ---- the end ----

void Watcher::stop(const std::string& reason) {
  if (std::exchange(stopping_, true)) return;
  stop_reason_ = reason;
  timer_.cancel();
  end_timer_.cancel();
  wait_for_collections(kLastWaits);
}

void Watcher::wait_for_collections(int tries) {
  bool busy = pump_scheduled_;
  for (const auto& [id, vm] : vms_) busy = busy || vm->collecting();
  if (!busy || tries == 0) return io_.stop();
  timer_.expires_after(std::chrono::milliseconds(50));
  timer_.async_wait([this, tries](const boost::system::error_code&) { wait_for_collections(tries - 1); });
}

void Watcher::finish() {
  command_.reset();
  for (const auto& [id, vm] : vms_) vm->finish("the run ended: " + stop_reason_);
  const auto end = static_cast<std::uint32_t>(trace::WatchEvent::end);
  recorder_->add(trace::make_record(clock::now_ns(), 0, trace::Watch{end, 0}, stop_reason_));
  const auto snapshot = clock::take_snapshot(trace::ClockReason::end);
  recorder_->add(trace::make_record(snapshot.boottime_ns, 0, snapshot));
  pump();
  analysis_.finish();
  reporter_.finish();
  vms_.clear();
  scout_.reset();
  if (!options_.quiet)
    render::notes(err_, analysis_.summary(), {cli::use_color(options_.color, STDERR_FILENO), 100});
  if (!watched_any_ && stop_reason_ != "interrupted")
    for (const std::string& sentence : targets_.missing())
      if (!told_.contains(sentence.substr(0, sentence.find(": ")))) context_->complain(sentence);
  std::string text = stop_reason_ + "; " + std::to_string(reporter_.reported()) +
                     (reporter_.reported() == 1 ? " incident" : " incidents");
  if (trace::Writer* writer = recorder_->writer()) {
    const auto closed = writer->close();
    const trace::WriterStats stats = writer->stats();
    text += "; " + std::to_string(stats.records) + " records in " + trace_path_;
    if (stats.lost > 0) text += ", " + std::to_string(stats.lost) + " lost";
    if (!closed && recorder_->take_error()) text += " (" + to_string(closed.error()) + ")";
  }
  context_->say(text);
}

int Watcher::exit_code() const {
  if (options_.expect) return expect_code_.value_or(watched_any_ ? kDidNotCome : kCannotTell);
  if (!watched_any_ && !options_.all && stop_reason_ != "interrupted") return cli::kEnvironment;
  return options_.exit_code && reporter_.reported() > 0 ? cli::kFound : cli::kOk;
}

}  // namespace vmwhy::qmp_pausewatch
