// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-exits/kvm_exits.hpp"

#include <fmt/format.h>
#include <fmt/ostream.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/json/serialize.hpp>
#include <cerrno>
#include <cstring>
#include <ostream>
#include <set>

#include "bpf/load/ring.hpp"
#include "clock/clock.hpp"
#include "core/text.hpp"
#include "kvm/vcpu_numbers.hpp"
#include "tools/kvm-exits/command.hpp"
#include "tools/kvm-exits/device_query.hpp"
#include "tools/kvm-exits/output.hpp"
#include "tools/kvm-exits/targets.hpp"
#include "tools/kvm-exits/trace_out.hpp"

namespace vmwhy::kvm_exits {
namespace {

namespace asio = boost::asio;

// Room for vCPUs of VMs that start while we watch. A row costs 26 KiB.
constexpr std::uint32_t kSpareVcpus = 64, kMostVcpus = 65534;

bool touched_addresses(const std::vector<kvm_exits_vcpu>& rows) {
  return std::any_of(rows.begin(), rows.end(),
                     [](const kvm_exits_vcpu& row) { return row.address_cells != 0; });
}

class Session {
 public:
  Session(const Options& options, std::ostream& out, std::ostream& err)
      : options_(options),
        out_(out),
        err_(err),
        signals_(io_, SIGINT, SIGTERM),
        interval_(io_),
        end_(io_),
        second_(io_) {}

  int run();

 private:
  int prepare();
  int load();
  void watch_ends();
  void watch_process(std::uint32_t pid);
  void arm_interval();
  void arm_second();
  void on_message(const void* data, std::size_t bytes);
  void on_batch(const kvm_exits_batch& batch);
  void print_raw(const kvm_exits_batch& batch);
  Report report(const std::vector<kvm_exits_vcpu>& now, const std::vector<kvm_exits_vcpu>& before,
                std::uint64_t window_ns);
  void stop() { io_.stop(); }
  int finish();
  bool wanted(const kvm_exits_batch& batch) const;

  const Options& options_;
  std::ostream &out_, &err_;
  asio::io_context io_;
  asio::signal_set signals_;
  asio::steady_timer interval_, end_, second_;
  bpf::Environment environment_;
  kvm::Isa isa_ = kvm::Isa::unknown;
  Targets targets_;
  DeviceQueries devices_{io_, targets_};
  std::unique_ptr<TraceOut> trace_;
  std::unique_ptr<bpf::KvmExits> probe_;
  std::unique_ptr<bpf::RingReader> ring_;
  std::vector<std::unique_ptr<asio::posix::stream_descriptor>> processes_;
  std::size_t alive_ = 0;
  std::unique_ptr<Command> command_;
  std::vector<kvm_exits_vcpu> last_;
  std::uint64_t began_ns_ = 0, last_ns_ = 0;
  std::vector<std::string> notes_;
};

int Session::prepare() {
  environment_ = bpf::look_around();
  isa_ = kvm::isa_from(static_cast<std::uint32_t>(environment_.isa));
  if (const auto obstacle = environment_.obstacle()) {
    err_ << "kvm-exits: " << to_string(*obstacle) << "\n";
    return cli::kEnvironment;
  }
  auto targets = find_targets(options_);
  if (!targets) {
    err_ << "kvm-exits: " << to_string(targets.error()) << "\n";
    return cli::kEnvironment;
  }
  targets_ = std::move(*targets);
  std::set<std::int32_t> there;
  for (const auto& [pid, vm] : targets_.known)
    for (const auto& [tid, vcpu] : vm.vcpu_by_tid) there.insert(vcpu);
  // KVM's numbers may be others than those in the names of threads: it is said, not refused.
  if (const std::string missing = kvm::missing_vcpus(there, options_.vcpus); !missing.empty())
    err_ << "kvm-exits: by the names of QEMU's threads, " << missing << "\n";
  if (!options_.output.empty()) {
    auto trace = TraceOut::create(options_, environment_);
    if (!trace) {
      err_ << "kvm-exits: " << to_string(trace.error()) << "\n";
      return cli::kEnvironment;
    }
    trace_ = std::move(*trace);
    trace_->begin();
  }
  return load();
}

int Session::load() {
  bpf::KvmExitsOptions want;
  using Form = bpf::KvmExitsOptions::Form;
  want.form = options_.probe == "btf"       ? Form::btf
              : options_.probe == "raw"     ? Form::raw
              : options_.probe == "classic" ? Form::classic
                                            : Form::automatic;
  want.all = options_.all;
  want.pids = targets_.pids;
  want.exits = options_.exits;
  want.userspace = options_.userspace;
  want.pio = options_.pio;
  want.mmio = options_.mmio;
  want.raw_events = options_.raw || trace_;
  want.min_latency_ns = static_cast<std::uint64_t>(options_.min_latency.count());
  want.max_vcpus = static_cast<std::uint32_t>(options_.max_vcpus);
  if (want.max_vcpus == 0)
    want.max_vcpus =
        static_cast<std::uint32_t>(std::min<std::size_t>(targets_.threads + kSpareVcpus, kMostVcpus));
  if (want.raw_events) want.ring_bytes = options_.ring_mb << 20;
  auto probe = bpf::KvmExits::load(environment_, want);
  if (!probe) {
    err_ << "kvm-exits: " << to_string(probe.error()) << "\n";
    return cli::kEnvironment;
  }
  probe_ = std::move(*probe);
  auto ring = bpf::RingReader::create(
      probe_->ring_fd(), [this](const void* data, std::size_t bytes) { on_message(data, bytes); });
  if (!ring) {
    err_ << "kvm-exits: " << to_string(ring.error()) << "\n";
    return cli::kEnvironment;
  }
  ring_ = std::move(*ring);
  ring_->start(io_);
  if (auto attached = probe_->attach(); !attached) {
    err_ << "kvm-exits: " << to_string(attached.error()) << "\n";
    return cli::kEnvironment;
  }
  return cli::kOk;
}

void Session::on_message(const void* data, std::size_t bytes) {
  kvm_exits_batch batch{};
  if (bytes < KVM_EXITS_BATCH_HEADER || bytes > sizeof(batch)) return;
  std::memcpy(&batch, data, bytes);
  if (batch.count > (bytes - KVM_EXITS_BATCH_HEADER) / sizeof(kvm_exits_event)) return;
  on_batch(batch);
}

bool Session::wanted(const kvm_exits_batch& batch) const {
  return options_.vcpus.empty() ||
         std::find(options_.vcpus.begin(), options_.vcpus.end(), batch.vcpu_id) != options_.vcpus.end();
}

void Session::on_batch(const kvm_exits_batch& batch) {
  if (!wanted(batch)) return;
  if (trace_) trace_->add(batch);
  if (batch.message == KVM_EXITS_MESSAGE_FAILURE) {
    const std::string text =
        fmt::format("pid {} vCPU {}: {}", batch.tgid, batch.vcpu_id, failure_sentence(batch.events[0], isa_));
    if (!options_.quiet) err_ << "kvm-exits: " << text << "\n";
    notes_.push_back(text);
  } else if (options_.raw) {
    print_raw(batch);
  }
}

void Session::print_raw(const kvm_exits_batch& batch) {
  for (std::uint32_t i = 0; i < batch.count; ++i) {
    const kvm_exits_event& event = batch.events[i];
    const auto since = static_cast<std::int64_t>(event.time_ns - began_ns_);
    fmt::print(out_, "{:>14.6f} pid {} vcpu {} {} {} ns", static_cast<double>(since) / 1e9, batch.tgid,
               batch.vcpu_id, kvm::exit_reason_name(isa_, event.code), event.duration_ns);
    if (event.address != KVM_EXITS_NO_ADDRESS) fmt::print(out_, " address {:#x}", event.address);
    if (event.user_code != KVM_EXITS_NO_USER)
      fmt::print(out_, " {} qemu {} ns", kvm::userspace_reason_name(event.user_code), event.qemu_ns);
    out_ << "\n";
  }
}

Report Session::report(const std::vector<kvm_exits_vcpu>& now, const std::vector<kvm_exits_vcpu>& before,
                       std::uint64_t window_ns) {
  Report out;
  out.isa = isa_;
  out.window_ns = window_ns;
  for (const kvm_exits_vcpu& row : now) learn(targets_, static_cast<std::uint32_t>(row.pid_tgid >> 32));
  out.vms = make_vms(now, before, targets_.known, isa_, options_);
  out.probes = probe_->probes();
  out.losses = probe_->losses();
  out.notes = notes_;
  for (std::string& note : devices_.notes()) out.notes.push_back(std::move(note));
  if (const std::uint64_t rest = out.losses.counters[KVM_EXITS_STAT_ADDRESSES_FULL])
    out.notes.push_back(
        fmt::format("{} accesses to further ports and addresses are counted under their exits alone", rest));
  return out;
}

void Session::arm_interval() {
  if (options_.interval.count() <= 0) return;
  interval_.expires_after(options_.interval);
  interval_.async_wait([this](boost::system::error_code error) {
    if (error) return;
    const std::vector<kvm_exits_vcpu> now = probe_->snapshot();
    const std::uint64_t time_ns = clock::now_ns();
    const Report current = report(now, last_, time_ns - last_ns_);
    if (!options_.no_qmp) devices_.ask_for_unnamed(current.vms, time_ns);
    if (trace_) trace_->add(current);
    if (options_.csv)
      print_csv(out_, current, time_ns - began_ns_);
    else if (!options_.json && !options_.raw)
      print_table(out_, current, options_.key, cli::use_color(options_.color, STDOUT_FILENO));
    out_.flush();
    last_ = now;
    last_ns_ = time_ns;
    arm_interval();
  });
}

void Session::arm_second() {
  second_.expires_after(std::chrono::seconds(1));
  second_.async_wait([this](boost::system::error_code error) {
    if (error) return;
    if (trace_) {
      trace_->tick();
      if (const auto failed = trace_->take_error()) err_ << "kvm-exits: " << *failed << "\n";
    }
    out_.flush();
    // Whoever read our output has gone away.
    if (!out_) return stop();
    arm_second();
  });
}

void Session::watch_ends() {
  signals_.async_wait([this](boost::system::error_code error, int) {
    if (error) return;
    boost::system::error_code ignored;
    signals_.clear(ignored);  // A second one kills.
    stop();
  });
  if (options_.duration.count() > 0) {
    end_.expires_after(options_.duration);
    end_.async_wait([this](boost::system::error_code error) {
      if (!error) stop();
    });
  }
  for (const std::uint32_t pid : targets_.pids) watch_process(pid);
}

void Session::watch_process(std::uint32_t pid) {
  ++alive_;
  const auto ended = [this, pid] {
    notes_.push_back(fmt::format("process {} ended while it was watched", pid));
    if (--alive_ == 0 && options_.command.empty()) stop();
  };
  const int fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (fd < 0 && errno == ESRCH) return asio::post(io_, ended);
  if (fd < 0) return;
  processes_.push_back(std::make_unique<asio::posix::stream_descriptor>(io_, fd));
  processes_.back()->async_wait(asio::posix::stream_descriptor::wait_read,
                                [ended](boost::system::error_code error) {
                                  if (!error) ended();
                                });
}

int Session::run() {
  if (options_.check) {
    return print_check(out_, bpf::look_around()) ? cli::kOk : cli::kEnvironment;
  }
  if (const int code = prepare()) return code;
  began_ns_ = last_ns_ = clock::now_ns();
  if (!options_.no_qmp && (options_.pio || options_.mmio)) devices_.ask(began_ns_);
  watch_ends();
  if (!options_.command.empty()) {
    command_ = std::make_unique<Command>(io_, [this](int status) {
      if (!options_.quiet && status != 0)
        err_ << (WIFSIGNALED(status)
                     ? fmt::format("kvm-exits: the command was killed by signal {}\n", WTERMSIG(status))
                     : fmt::format("kvm-exits: the command ended with status {}\n", WEXITSTATUS(status)));
      stop();
    });
    if (auto started = command_->start(options_.command); !started) {
      err_ << "kvm-exits: " << to_string(started.error()) << "\n";
      return cli::kFailed;
    }
  } else if (!options_.quiet && options_.duration.count() == 0) {
    err_ << "kvm-exits: watching "
         << (options_.all ? "all VMs" : fmt::format("{} VM(s)", targets_.pids.size())) << "; end with ^C\n";
  }
  if (options_.csv) print_csv_head(out_);
  arm_interval();
  arm_second();
  io_.run();
  return finish();
}

int Session::finish() {
  // In this order: no new events, then what is still under way, then the sums, which are complete now.
  probe_->detach();
  const std::uint64_t now_ns = clock::now_ns();
  ring_->drain();
  ring_->stop();
  for (const kvm_exits_batch& batch : probe_->leftovers()) on_batch(batch);
  const std::vector<kvm_exits_vcpu> rows = probe_->snapshot();
  if (!options_.no_qmp && touched_addresses(rows)) devices_.ask_at_end(now_ns);
  Report total = report(rows, {}, now_ns - began_ns_);
  for (std::string& note : silence_notes(total.probes, isa_)) total.notes.push_back(std::move(note));
  if (options_.json)
    out_ << boost::json::serialize(to_json(total)) << "\n";
  else if (options_.csv && options_.interval.count() == 0)
    print_csv(out_, total, total.window_ns);
  else if (!options_.csv && !options_.raw)
    print_table(out_, total, options_.key, cli::use_color(options_.color, STDOUT_FILENO));
  int code = cli::kOk;
  if (trace_) {
    trace_->add(options_.interval.count() > 0 ? report(rows, last_, now_ns - last_ns_) : total);
    const std::uint64_t lost = total.losses.lost();
    const auto written = trace_->end(total, lost);
    if (!written) {
      if (trace_->take_error()) err_ << "kvm-exits: " << to_string(written.error()) << "\n";
      code = cli::kFailed;
    } else if (!options_.quiet) {
      err_ << fmt::format("kvm-exits: {} records in {} ({}); lost: {}\n", written->records,
                          printable(options_.output), human_bytes(written->bytes), lost + written->lost);
    }
  }
  if (!options_.quiet && (options_.csv || options_.raw))
    for (const std::string& note : total.notes) err_ << "kvm-exits: " << note << "\n";
  if (!options_.quiet && total.losses.lost() && (options_.csv || options_.raw))
    err_ << "kvm-exits: lost: " << losses_text(total.losses) << "\n";
  return code;
}

}  // namespace

int run(const Options& options, std::ostream& out, std::ostream& err) {
  return Session(options, out, err).run();
}

}  // namespace vmwhy::kvm_exits
