// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-tap/qmp_tap.hpp"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/json/serialize.hpp>
#include <ostream>
#include <set>

#include "clock/clock.hpp"
#include "core/text.hpp"
#include "tap/mask.hpp"
#include "tools/qmp-tap/printer.hpp"
#include "tools/qmp-tap/summary.hpp"
#include "tools/qmp-tap/trace_out.hpp"

namespace vmwhy::qmp_tap {
namespace {

namespace asio = boost::asio;
using qmp::proto::Overheard;

class Session {
 public:
  Session(const Options& options, std::ostream& out, std::ostream& err)
      : options_(options),
        out_(out),
        err_(err),
        printer_(options, out, !options.json && cli::use_color(options.color, STDOUT_FILENO)),
        signals_(io_, SIGINT, SIGTERM),
        end_(io_),
        second_(io_) {}

  int run();

 private:
  int prepare();
  bool find_targets();
  bool follows() const { return options_.all || !options_.names.empty(); }
  bool wanted(const qmp::QemuProcess& process) const;
  void watch(const qmp::QemuProcess& process);
  void started(std::uint32_t pid);
  void look_for_changes();
  void heard(const tap::Wire& wire, const Overheard& message);
  void changed(const tap::Wire& wire, tap::Change change, std::uint64_t time_ns, std::uint64_t waited_ns);
  void tell_waiting(std::uint64_t now);
  void arm_second();
  void every_second();
  void watch_ends();
  int finish();
  void say(const std::string& text) {
    if (!options_.quiet) err_ << "qmp-tap: " << printable(text) << "\n";
  }
  std::string name_of(std::uint32_t pid) const;

  const Options& options_;
  std::ostream &out_, &err_;
  asio::io_context io_;
  Printer printer_;
  Summary summary_;
  asio::signal_set signals_;
  asio::steady_timer end_, second_;
  std::unique_ptr<tap::Tap> tap_;
  std::unique_ptr<TraceOut> trace_;
  std::map<std::uint32_t, std::string> names_;                      ///< Of the VMs listened to.
  std::set<std::pair<std::uint32_t, std::uint64_t>> known_;         ///< pid and start: looked at already.
  std::set<std::pair<std::uint64_t, std::uint64_t>> waiting_told_;  ///< Socket and time of the command.
  std::uint64_t lost_ = 0, looked_ns_ = 0;
};

std::string Session::name_of(std::uint32_t pid) const {
  const auto found = names_.find(pid);
  return found == names_.end() || found->second.empty() ? fmt::format("pid {}", pid) : found->second;
}

bool Session::wanted(const qmp::QemuProcess& process) const {
  if (options_.all ||
      std::find(options_.pids.begin(), options_.pids.end(), process.pid) != options_.pids.end())
    return true;
  return std::any_of(options_.names.begin(), options_.names.end(), [&](const std::string& name) {
    return name == process.name || (!process.uuid.empty() && name == process.uuid);
  });
}

void Session::watch(const qmp::QemuProcess& process) {
  known_.emplace(process.pid, process.start_ns);
  if (!wanted(process)) {
    if (tap_->watches(process.pid)) tap_->unwatch(process.pid);
    return;
  }
  names_[process.pid] = process.name;
  if (trace_) trace_->add_vm(process);
  if (auto done = tap_->watch(process); !done) return say(to_string(done.error()));
  std::size_t connections = 0;
  for (const qmp::MonitorSocket& monitor : process.monitors) connections += monitor.held ? 1 : 0;
  say(fmt::format("listening to {} (pid {}): {} QMP monitor(s), {} connected{}", name_of(process.pid),
                  process.pid, process.monitors.size(), connections,
                  process.unreadable ? "; its command line cannot be read" : ""));
}

/// Said before a trace is made: a file without anything in it helps nobody.
bool Session::find_targets() {
  for (const std::uint32_t pid : options_.pids) {
    if (const auto process = qmp::inspect_qemu(pid); !process) {
      err_ << "qmp-tap: " << printable(to_string(process.error()))
           << "; qmp-call --list shows those there are\n";
      return false;
    }
  }
  return true;
}

int Session::prepare() {
  if (!find_targets()) return cli::kEnvironment;
  tap::Options want;
  want.follow = follows();
  want.ring_bytes = options_.ring_mb << 20;
  auto tap = tap::Tap::open(want);
  if (!tap) {
    err_ << "qmp-tap: " << printable(to_string(tap.error())) << "\n";
    return cli::kEnvironment;
  }
  tap_ = std::move(*tap);
  if (!options_.output.empty()) {
    auto trace = TraceOut::create(options_, tap_->form());
    if (!trace) {
      err_ << "qmp-tap: " << printable(to_string(trace.error())) << "\n";
      return cli::kEnvironment;
    }
    trace_ = std::move(*trace);
    trace_->begin();
  }
  tap::Handlers handlers;
  handlers.on_message = [this](const tap::Wire& wire, const Overheard& message) { heard(wire, message); };
  handlers.on_change = [this](const tap::Wire& wire, tap::Change change, std::uint64_t time_ns,
                              std::uint64_t waited_ns) { changed(wire, change, time_ns, waited_ns); };
  handlers.on_started = [this](std::uint32_t pid) { asio::post(io_, [this, pid] { started(pid); }); };
  every_second();
  if (auto done = tap_->start(io_, std::move(handlers)); !done) {
    err_ << "qmp-tap: " << printable(to_string(done.error())) << "\n";
    return cli::kEnvironment;
  }
  look_for_changes();
  if (names_.empty()) say(options_.all ? "no QEMU runs here yet; waiting" : "no such VM yet; waiting");
  return cli::kOk;
}

void Session::started(std::uint32_t pid) {
  const auto process = qmp::inspect_qemu(pid);
  if (process)
    watch(*process);
  else if (tap_->watches(pid))
    tap_->unwatch(pid);
}

/// What has come without being told of, and what has gone.
void Session::look_for_changes() {
  const auto there = qmp::list_qemu_pids();
  for (auto it = names_.begin(); it != names_.end();) {
    const std::uint32_t pid = it->first;
    if (std::any_of(there.begin(), there.end(), [pid](const auto& entry) { return entry.first == pid; })) {
      ++it;
      continue;
    }
    tap_->unwatch(pid);
    if (trace_) trace_->end_vm(pid, "QEMU ended");
    say(name_of(pid) + " has ended");
    it = names_.erase(it);
  }
  for (const auto& [pid, start_ns] : there) {
    if (known_.contains({pid, start_ns})) continue;
    known_.emplace(pid, start_ns);
    if (!follows() && std::find(options_.pids.begin(), options_.pids.end(), pid) == options_.pids.end())
      continue;
    if (const auto process = qmp::inspect_qemu(pid)) watch(*process);
  }
  if (!follows() && names_.empty()) io_.stop();
}

void Session::heard(const tap::Wire& wire, const Overheard& message) {
  const std::string json = tap::masked_json(message);
  summary_.add(message);
  if (trace_) trace_->add(wire, message, json);
  printer_.message(wire, name_of(wire.pid), message,
                   options_.show_secrets ? std::string(message.json) : json);
}

void Session::changed(const tap::Wire& wire, tap::Change change, std::uint64_t time_ns,
                      std::uint64_t waited_ns) {
  if (trace_) trace_->add(wire, change, time_ns, waited_ns);
  printer_.change(wire, name_of(wire.pid), change, time_ns, waited_ns);
}

void Session::tell_waiting(std::uint64_t now) {
  if (options_.slow.count() <= 0) return;
  decltype(waiting_told_) still;
  for (const tap::Pending& pending : tap_->pending()) {
    if (pending.received_ns + static_cast<std::uint64_t>(options_.slow.count()) > now) continue;
    const std::pair key{pending.wire->ino, pending.received_ns};
    still.insert(key);
    if (!waiting_told_.contains(key)) printer_.waiting(pending, name_of(pending.wire->pid), now);
  }
  waiting_told_ = std::move(still);
}

void Session::every_second() {
  const auto snapshot = clock::take_snapshot(trace::ClockReason::tick);
  const std::uint64_t now = snapshot.boottime_ns;
  printer_.set_clock(snapshot.realtime_ns - static_cast<std::int64_t>(now));
  const std::uint64_t lost = tap_->losses().lost();
  if (lost != lost_ && trace_) trace_->add_lost(lost - lost_, looked_ns_ == 0 ? now : looked_ns_);
  lost_ = lost;
  looked_ns_ = now;
}

void Session::arm_second() {
  second_.expires_after(std::chrono::seconds(1));
  second_.async_wait([this](boost::system::error_code error) {
    if (error) return;
    every_second();
    tap_->every_second();
    tell_waiting(clock::now_ns());
    look_for_changes();
    if (trace_) {
      trace_->tick();
      if (const auto failed = trace_->take_error()) err_ << "qmp-tap: " << printable(*failed) << "\n";
    }
    out_.flush();
    // Whoever read our output has gone away.
    if (!out_) return io_.stop();
    arm_second();
  });
}

void Session::watch_ends() {
  signals_.async_wait([this](boost::system::error_code error, int) {
    if (error) return;
    boost::system::error_code ignored;
    signals_.clear(ignored);  // A second one kills.
    io_.stop();
  });
  if (options_.duration.count() <= 0) return;
  end_.expires_after(options_.duration);
  end_.async_wait([this](boost::system::error_code error) {
    if (!error) io_.stop();
  });
}

int Session::run() {
  // A reader that goes away must not cost the trace its end.
  ::signal(SIGPIPE, SIG_IGN);
  watch_ends();
  if (const int code = prepare()) return code;
  arm_second();
  io_.run();
  return finish();
}

int Session::finish() {
  tap_->drain();
  every_second();
  const bpf::QmpTapLosses losses = tap_->losses();
  const std::vector<tap::Pending> pending = tap_->pending();
  if (options_.json && !options_.quiet) {
    boost::json::object last{{"schema", "vmwhy.qmp/1"},
                             {"kind", "summary"},
                             {"form", tap_->form()},
                             {"lost_pieces", losses.lost()},
                             {"unanswered", pending.size()}};
    for (auto& member : summary_.to_json()) last[member.key()] = std::move(member.value());
    out_ << json_safe(boost::json::serialize(last)) << "\n";
  } else if (!options_.quiet) {
    summary_.print(out_);
    const std::uint64_t now = clock::now_ns();
    for (const tap::Pending& command : pending) printer_.waiting(command, name_of(command.wire->pid), now);
  }
  out_.flush();
  if (losses.lost() != 0 || summary_.lost_bytes() != 0)
    err_ << fmt::format("qmp-tap: {} bytes of the conversations were not heard whole; pieces lost: {}\n",
                        summary_.lost_bytes(), losses.lost());
  if (!trace_) return cli::kOk;
  const auto written = trace_->end(losses);
  if (!written) {
    if (trace_->take_error()) err_ << "qmp-tap: " << printable(to_string(written.error())) << "\n";
    return cli::kFailed;
  }
  say(fmt::format("{} records in {} ({}); lost: {}", written->records, options_.output,
                  human_bytes(written->bytes), losses.lost() + written->lost));
  return cli::kOk;
}

}  // namespace

int run(const Options& options, std::ostream& out, std::ostream& err) {
  return Session(options, out, err).run();
}

}  // namespace vmwhy::qmp_tap
