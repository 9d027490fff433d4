// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-stalls/kvm_stalls.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/json/serialize.hpp>
#include <cstring>
#include <memory>
#include <ostream>
#include <set>

#include "bpf/load/ring.hpp"
#include "clock/clock.hpp"
#include "core/text.hpp"
#include "host/process.hpp"
#include "kvm/vcpu_numbers.hpp"
#include "tools/kvm-stalls/enrich.hpp"
#include "tools/kvm-stalls/output.hpp"
#include "tools/kvm-stalls/trace_out.hpp"
#include "tools/kvm-stalls/tracker.hpp"
#include "tools/kvm-stalls/user_stacks.hpp"

namespace vmwhy::kvm_stalls {
namespace {

namespace asio = boost::asio;

// Room for threads that start while we watch. A row costs 4 KiB.
constexpr std::size_t kSpareThreads = 512, kMostThreads = 65534;
// How often rows are looked at for stalls that have begun: as long as the threshold, so that when a stall
// crosses it is known before it does, but within these bounds.
constexpr std::chrono::nanoseconds kLookLeast = std::chrono::milliseconds(5),
                                   kLookMost = std::chrono::milliseconds(20);
// How long the begin waits for the code of QEMUs to be read: stalls are named with it.
constexpr std::chrono::milliseconds kCodeIsRead{1000};
constexpr std::size_t kMaxSignals = 1000, kMaxSleeps = 1000;

class Session {
 public:
  Session(const Options& options, std::ostream& out, std::ostream& err)
      : options_(options),
        out_(out),
        err_(err),
        signals_(io_, SIGINT, SIGTERM),
        interval_(io_),
        end_(io_),
        second_(io_),
        look_(io_),
        reactions_(options.reactions, options.output, err) {}

  int run();

 private:
  int fail(const std::string& what, int code);
  int prepare();
  void start_threads(const std::vector<qmp::QemuProcess>& vms);
  void arm_ends();
  void arm_interval();
  void arm_second();
  void arm_look();
  void on_message(const void* data, std::size_t bytes);
  void on_stall(const stalls_stall& raw);
  void on_signal(const stalls_signal& raw);
  void on_exit(const stalls_signal& raw);
  void on_exec(const stalls_signal& raw);
  void let_go(std::uint32_t pid);
  void take(Seen seen);
  void add_user_stack(Seen& seen);
  void name_owner(Seen& seen) const;
  void notice_sleep();
  void tell(const std::string& line);
  void on_end(std::uint32_t pid, std::optional<int> code, std::uint64_t time_ns, const std::string& how);
  std::string missing_vcpus(const std::vector<qmp::QemuProcess>& vms) const;
  std::string vm_name(std::uint32_t pid) const;
  std::string name_alone(std::uint32_t pid) const;
  std::string since_begin(std::uint64_t time_ns) const {
    return relative_time(static_cast<std::int64_t>(time_ns - std::min(time_ns, began_ns_)));
  }
  Report report(std::vector<Share> threads, std::uint64_t window_ns);
  void record_window(const std::vector<Share>& threads);
  void stop() { io_.stop(); }
  int finish();
  bool live() const { return !options_.json; }

  const Options& options_;
  std::ostream &out_, &err_;
  asio::io_context io_;
  asio::signal_set signals_;
  asio::steady_timer interval_, end_, second_, look_;
  std::unique_ptr<bpf::Stalls> probes_;
  std::unique_ptr<bpf::RingReader> ring_;
  std::unique_ptr<Tracker> tracker_;
  std::unique_ptr<TraceOut> trace_;
  Enricher enricher_;
  UserStacks user_stacks_;
  std::map<std::uint32_t, stalls_user> users_;  ///< Of stalls that come next, by slot.
  Reactions reactions_;
  std::vector<stalls::Stall> worst_;  ///< The longest first, at most `top`.
  std::uint64_t all_stalls_ = 0;
  std::vector<Signal> sent_;
  trace::ClockSnapshot clocks_{};  ///< As they were looked at last.
  std::vector<clock::Sleep> sleeps_;
  std::vector<std::string> notes_;
  std::uint64_t told_ = 0, untold_ = 0;  ///< Lines in this second.
  std::uint64_t began_ns_ = 0, last_ns_ = 0;
  std::uint32_t isa_ = 0;
};

int Session::fail(const std::string& what, int code) {
  err_ << "kvm-stalls: " << what << "\n";
  return code;
}

int Session::prepare() {
  const bpf::Environment environment = bpf::look_around();
  if (const auto obstacle = environment.obstacle(false)) return fail(to_string(*obstacle), cli::kEnvironment);
  if (!host::in_first_pid_namespace())
    return fail("thread ids of this PID namespace are not the kernel's; run on the host", cli::kEnvironment);
  isa_ = static_cast<std::uint32_t>(environment.isa);
  const auto vms = find_vms(options_);
  if (!vms) return fail(to_string(vms.error()), cli::kEnvironment);
  bpf::StallsOptions want;
  std::size_t threads = kSpareThreads;
  for (const qmp::QemuProcess& vm : *vms) threads += vm.threads.size();
  want.max_threads = static_cast<std::uint32_t>(options_.max_threads ? options_.max_threads
                                                                     : std::min(threads, kMostThreads));
  want.vcpu_threshold_ns = options_.vcpu_threshold_ns();
  auto probes = bpf::Stalls::load(environment, want);
  if (!probes) return fail(to_string(probes.error()), cli::kEnvironment);
  probes_ = std::move(*probes);
  auto ring = bpf::RingReader::create(
      probes_->ring_fd(), [this](const void* data, std::size_t bytes) { on_message(data, bytes); });
  if (!ring) return fail(to_string(ring.error()), cli::kEnvironment);
  ring_ = std::move(*ring);
  if (!options_.output.empty()) {
    auto trace = TraceOut::create(options_);
    if (!trace) return fail(to_string(trace.error()), cli::kEnvironment);
    trace_ = std::move(*trace);
  }
  clocks_ = clock::take_snapshot(trace::ClockReason::start);
  began_ns_ = last_ns_ = clocks_.boottime_ns;
  if (auto attached = probes_->attach(); !attached)
    return fail(to_string(attached.error()), cli::kEnvironment);
  if (trace_) trace_->begin(probes_->probes(), io_);
  start_threads(*vms);
  // What takes its time is done before the first stall waits for it.
  enricher_.load();
  user_stacks_.wait_until_read(kCodeIsRead);
  if (const std::string missing = missing_vcpus(*vms); !missing.empty()) {
    if (tracker_->threads().empty()) return fail(missing, cli::kEnvironment);
    notes_.push_back(missing);
    if (!options_.quiet) err_ << "kvm-stalls: " << missing << "\n";
  }
  ring_->start(io_);
  return cli::kOk;
}

void Session::start_threads(const std::vector<qmp::QemuProcess>& vms) {
  tracker_ = std::make_unique<Tracker>(*probes_, options_, [this](const qmp::QemuProcess& process) {
    if (trace_) trace_->add_vm(process);
    user_stacks_.add(process.pid);
  });
  for (const qmp::QemuProcess& vm : vms) tracker_->add(vm);
  if (!probes_->tells_guest())
    notes_.emplace_back("guest, KVM and QEMU are not told apart here: their time is \"running\"");
}

std::string Session::missing_vcpus(const std::vector<qmp::QemuProcess>& vms) const {
  if (options_.vcpus.empty()) return {};
  std::set<std::int32_t> there;
  for (const qmp::QemuProcess& vm : vms)
    for (const qmp::QemuThread& thread : vm.threads)
      if (thread.vcpu >= 0) there.insert(thread.vcpu);
  if (there.empty() && tracker_->threads().empty())
    return "no thread of the vCPUs of --vcpu was found; threads are told by their names, which QEMU gives "
           "with -name debug-threads=on";
  return kvm::missing_vcpus(there, options_.vcpus);
}

std::string Session::vm_name(std::uint32_t pid) const {
  const auto name = tracker_->names().find(pid);
  return name != tracker_->names().end() && !name->second.empty()
             ? fmt::format("{} [{}]", printable(name->second, 60), pid)
             : fmt::format("process {}", pid);
}

std::string Session::name_alone(std::uint32_t pid) const {
  const auto name = tracker_->names().find(pid);
  return name != tracker_->names().end() ? name->second : std::string();
}

void Session::on_message(const void* data, std::size_t bytes) {
  std::uint32_t message = 0;
  if (bytes < sizeof message) return;
  std::memcpy(&message, data, sizeof message);
  if (message == STALLS_MESSAGE_STALL && bytes == sizeof(stalls_stall)) {
    stalls_stall raw;
    std::memcpy(&raw, data, sizeof raw);
    on_stall(raw);
  } else if (message == STALLS_MESSAGE_USER && bytes == sizeof(stalls_user)) {
    std::memcpy(&users_[static_cast<const stalls_user*>(data)->slot], data, sizeof(stalls_user));
  } else if (bytes == sizeof(stalls_signal)) {
    stalls_signal raw;
    std::memcpy(&raw, data, sizeof raw);
    if (message == STALLS_MESSAGE_EXIT)
      on_exit(raw);
    else if (message == STALLS_MESSAGE_EXEC)
      on_exec(raw);
    else
      on_signal(raw);
  }
}

void Session::on_stall(const stalls_stall& raw) {
  const Tracker::Watched* watched = tracker_->find(raw.slot, raw.tid);
  if (!watched) return;
  Seen seen = make_stall(watched->thread, raw);
  seen.again = tracker_->told(raw.slot, raw.begin_ns);
  take(std::move(seen));
}

void Session::add_user_stack(Seen& seen) {
  stalls::Stall& stall = seen.stall;
  if (seen.block.user == 0 || stall.record.block_ns == 0) return;
  if (stall.ongoing()) {
    if (const auto user = probes_->user_stack(seen.slot, seen.block))
      stall.user_stack = user_stacks_.name(stall.record.pid, *user);
    return;
  }
  const auto user = users_.find(seen.slot);
  if (user == users_.end()) return;
  if (user->second.since_ns == seen.block.since_ns && user->second.tid == stall.record.tid)
    stall.user_stack = user_stacks_.name(stall.record.pid, user->second);
  users_.erase(user);
}

void Session::name_owner(Seen& seen) const {
  if (seen.block.lock_owner == 0 || seen.stall.record.block_ns == 0) return;
  const std::uint32_t tid = thread_numbered(seen.stall.record.pid, seen.block.lock_owner);
  const Thread* owner = tid != 0 ? tracker_->thread(seen.stall.record.pid, tid) : nullptr;
  if (owner == nullptr) return;
  seen.stall.record.lock_owner = tid;
  seen.stall.lock_owner =
      stalls::name_of_thread(static_cast<std::uint32_t>(owner->role), owner->vcpu, owner->tid, owner->comm);
}

void Session::take(Seen seen) {
  stalls::Stall& stall = seen.stall;
  notice_sleep();
  for (const clock::Sleep& sleep : sleeps_)
    stall.record.suspended_ns += sleep.least_within(stall.begin_ns(), stall.end_ns);
  // All threads stood while the host slept: what it told was that, and no thread's stall.
  const auto role = static_cast<trace::ThreadRole>(stall.record.role);
  if (stall.record.suspended_ns != 0 &&
      stall.record.length_ns - std::min(stall.record.length_ns, stall.record.suspended_ns) <
          tracker_->threshold(role))
    return;
  enricher_.enrich(stall, seen.block);
  add_user_stack(seen);
  name_owner(seen);
  if (probes_->tells_guest()) stall.record.flags |= trace::kStallGuestTold;
  stall.record.isa = isa_;
  if (trace_) trace_->add(stall);
  if (!seen.again) reactions_.on_stall(stall, name_alone(stall.record.pid));
  if (seen.again)
    std::erase_if(worst_, [&](const stalls::Stall& other) {
      return other.record.tid == stall.record.tid && other.begin_ns() == stall.begin_ns();
    });
  else
    ++all_stalls_;
  if (live())
    tell(line_of(stall, vm_name(stall.record.pid), began_ns_) +
         (seen.again && !stall.ongoing() ? "; it is over" : ""));
  const auto place = std::upper_bound(
      worst_.begin(), worst_.end(), stall,
      [](const stalls::Stall& a, const stalls::Stall& b) { return a.record.length_ns > b.record.length_ns; });
  worst_.insert(place, std::move(stall));
  if (worst_.size() > options_.top) worst_.pop_back();
}

void Session::notice_sleep() {
  const trace::ClockSnapshot now = clock::take_snapshot(trace::ClockReason::tick);
  const std::uint64_t slept = clock::suspended_between(clocks_, now);
  const trace::ClockSnapshot before = std::exchange(clocks_, now);
  if (slept == 0) return;
  if (sleeps_.size() < kMaxSleeps) sleeps_.push_back({before.boottime_ns, now.boottime_ns, slept});
  if (trace_) {
    trace_->add(before);
    trace_->add(now);
  }
  if (live())
    tell(fmt::format("{} the host slept for {}, and every VM with it", since_begin(now.boottime_ns),
                     human_duration(static_cast<std::int64_t>(slept))));
}

void Session::tell(const std::string& line) {
  if (++told_ > options_.top) {
    ++untold_;
    return;
  }
  out_ << line << "\n";
  out_.flush();
}

void Session::on_signal(const stalls_signal& raw) {
  Signal signal = make_signal(raw);
  if (trace_) trace_->add(signal);
  reactions_.on_signal(signal, name_alone(raw.target_tgid));
  if (live())
    tell(fmt::format("{} {}: {}", since_begin(raw.time_ns), vm_name(raw.target_tgid), describe(signal)));
  if (sent_.size() < kMaxSignals) sent_.push_back(std::move(signal));
}

void Session::on_exit(const stalls_signal& raw) {
  const std::string how = WIFSIGNALED(raw.signal)
                              ? "was killed by " + signal_name(WTERMSIG(raw.signal))
                              : fmt::format("ended with status {}", WEXITSTATUS(raw.signal));
  on_end(raw.target_tgid, raw.signal, raw.time_ns, how);
  let_go(raw.target_tgid);
}

void Session::on_exec(const stalls_signal& raw) {
  const std::string program(raw.sender_comm, ::strnlen(raw.sender_comm, sizeof raw.sender_comm));
  const std::uint32_t pid = raw.target_tgid;
  const auto again = qmp::inspect_qemu(pid);
  on_end(pid, std::nullopt, raw.time_ns,
         fmt::format("became another program by execve, {}: {}", printable(program, 64),
                     again ? "a QEMU, watched anew" : "no QEMU, and no longer watched"));
  if (!again) return let_go(pid);
  tracker_->forget(pid);
  tracker_->add(*again);
}

void Session::let_go(std::uint32_t pid) {
  tracker_->forget(pid);
  user_stacks_.forget(pid);
  if (!options_.all && tracker_->empty()) stop();
}

void Session::on_end(std::uint32_t pid, std::optional<int> code, std::uint64_t time_ns,
                     const std::string& how) {
  const std::string text = fmt::format("{} {}", vm_name(pid), how);
  if (live()) tell(since_begin(time_ns) + " " + text);
  if (notes_.size() < 64) notes_.push_back(text);
  if (trace_) trace_->add_end(pid, code, time_ns, code ? "sched_process_exit" : how);
  reactions_.on_end(pid, name_alone(pid), text);
}

Report Session::report(std::vector<Share> threads, std::uint64_t window_ns) {
  Report out;
  out.window_ns = window_ns;
  out.threads = std::move(threads);
  out.names = tracker_->names();
  out.probes = probes_->probes();
  out.losses = probes_->losses();
  return out;
}

void Session::record_window(const std::vector<Share>& threads) {
  if (!trace_) return;
  for (const Share& share : threads) trace_->add(share);
}

void Session::arm_interval() {
  const bool asked = options_.interval.count() > 0;
  // A trace holds a window each second even where no table is asked for; and with a window, threads that
  // ended make room.
  interval_.expires_after(asked ? options_.interval : std::chrono::seconds(1));
  interval_.async_wait([this, asked](boost::system::error_code error) {
    if (error) return;
    std::vector<Share> threads = tracker_->window();
    record_window(threads);
    const std::uint64_t now = clock::now_ns();
    if (asked && live())
      print_table(out_, report(std::move(threads), now - last_ns_),
                  cli::use_color(options_.color, STDOUT_FILENO));
    out_.flush();
    last_ns_ = now;
    arm_interval();
  });
}

void Session::arm_second() {
  second_.expires_after(std::chrono::seconds(1));
  second_.async_wait([this](boost::system::error_code error) {
    if (error) return;
    ring_->drain();  // An end that is in there was seen.
    for (const std::uint32_t pid : tracker_->look_again())
      on_end(pid, std::nullopt, clock::now_ns(), "ended; how was not seen");
    reactions_.reap();
    if (untold_ && live()) out_ << fmt::format("… and {} more in this second\n", untold_);
    told_ = untold_ = 0;
    if (trace_) {
      trace_->tick();
      if (const auto failed = trace_->take_error()) err_ << "kvm-stalls: " << *failed << "\n";
    }
    if (!options_.all && tracker_->empty()) return stop();
    // Whoever read our output has gone away.
    if (!out_) return stop();
    arm_second();
  });
}

void Session::arm_look() {
  const std::chrono::nanoseconds usual = std::clamp(options_.min_latency, kLookLeast, kLookMost);
  const std::chrono::nanoseconds crossing(
      static_cast<std::int64_t>(std::min(tracker_->next_crossing_ns(), std::uint64_t{1} << 62)));
  look_.expires_after(std::min(usual, crossing));
  look_.async_wait([this](boost::system::error_code error) {
    if (error) return;
    notice_sleep();
    for (Seen& seen : tracker_->ongoing(clock::now_ns())) take(std::move(seen));
    if (reactions_.exit_wanted()) return stop();
    arm_look();
  });
}

void Session::arm_ends() {
  signals_.async_wait([this](boost::system::error_code error, int) {
    if (error) return;
    boost::system::error_code ignored;
    signals_.clear(ignored);  // A second one kills.
    stop();
  });
  if (options_.duration.count() <= 0) return;
  end_.expires_after(options_.duration);
  end_.async_wait([this](boost::system::error_code error) {
    if (!error) stop();
  });
}

int Session::run() {
  if (options_.check) return print_check(out_, bpf::look_around()) ? cli::kOk : cli::kEnvironment;
  if (const int code = prepare()) return code;
  arm_ends();
  arm_interval();
  arm_second();
  arm_look();
  if (!options_.quiet)
    err_ << fmt::format("kvm-stalls: watching {} threads of {} VM(s){}\n", tracker_->threads().size(),
                        tracker_->names().size(), options_.duration.count() > 0 ? "" : "; end with ^C");
  io_.run();
  return finish();
}

int Session::finish() {
  // Once more: what goes on now, then no new events, then the sums.
  ring_->drain();
  const std::uint64_t now = clock::now_ns();
  record_window(tracker_->window());
  Report total = report(tracker_->total(), now - began_ns_);
  probes_->detach();
  ring_->drain();
  ring_->stop();
  total.stalls = std::move(worst_);
  total.all_stalls = all_stalls_;
  total.signals = std::move(sent_);
  total.probes = probes_->probes();
  total.losses = probes_->losses();
  total.sleeps = std::move(sleeps_);
  total.notes = std::move(notes_);
  for (std::string& note : tracker_->take_notes()) total.notes.push_back(std::move(note));
  if (user_stacks_.missed() != 0)
    total.notes.push_back(
        fmt::format("stacks in QEMU of {} stalls were not named in time", user_stacks_.missed()));
  if (!enricher_.obstacle().empty()) total.notes.push_back(enricher_.obstacle());
  if (options_.json) {
    out_ << json_safe(boost::json::serialize(to_json(total))) << "\n";
  } else {
    const bool color = cli::use_color(options_.color, STDOUT_FILENO);
    print_table(out_, total, color);
    print_end(out_, total, began_ns_, color);
  }
  if (!trace_) return cli::kOk;
  const auto written = trace_->end(total);
  if (!written) return trace_->take_error() ? fail(to_string(written.error()), cli::kFailed) : cli::kFailed;
  if (!options_.quiet)
    err_ << fmt::format("kvm-stalls: {} records in {} ({}); lost: {}\n", written->records,
                        printable(options_.output), human_bytes(written->bytes),
                        total.losses.ring_full + written->lost);
  return cli::kOk;
}

}  // namespace

int run(const Options& options, std::ostream& out, std::ostream& err) {
  return Session(options, out, err).run();
}

}  // namespace vmwhy::kvm_stalls
