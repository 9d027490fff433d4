// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/collector.hpp"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <map>

#include "clock/clock.hpp"
#include "core/text.hpp"
#include "host/libvirt_domain.hpp"
#include "host/pressure.hpp"
#include "tools/qmp-pausewatch/vm_watch.hpp"
#include "trace/record.hpp"
#include "trace/tap_records.hpp"

namespace vmwhy::qmp_pausewatch {
namespace {

using std::chrono::milliseconds;

/// A healthy file system answers within microseconds; a slow network within this.
constexpr milliseconds kReachDeadline{1000};
constexpr milliseconds kTailDeadline{500};
/// libvirt looks at what it knows; it does not ask QEMU.
constexpr milliseconds kOwnerDeadline{1000};

constexpr const char* kPlainQuestions[] = {"query-status", "query-migrate", "query-jobs", "query-cpus-fast",
                                           "query-iothreads"};
constexpr const char* kStorageQuestions[] = {"query-named-block-nodes", "query-block", "query-blockstats"};

trace::OwnedRecord node_record(std::uint32_t vm, const storage::NodePath& node,
                               const host::StorageProbe::NodeAnswer& answer) {
  return trace::make_record(
      clock::now_ns(), vm, answer.facts.file,
      trace::join_text({node.node, node.path, answer.facts.mount_point, answer.facts.fs_type,
                        answer.facts.mount_source, answer.facts.devices, answer.facts.quotas}));
}

}  // namespace

void run_later(Context& context, std::chrono::nanoseconds delay, std::function<void()> handler) {
  auto timer = std::make_shared<boost::asio::steady_timer>(context.io, delay);
  timer->async_wait([timer, handler = std::move(handler)](const boost::system::error_code& error) {
    if (!error) handler();
  });
}

void reach_nodes(Context& context, VmWatch& vm, std::function<void(const Reach&)> handler) {
  struct Pending {
    Reach reach;
    std::size_t waiting = 0;
    std::function<void(const Reach&)> handler;
  };
  std::map<std::string, std::vector<storage::NodePath>> by_path;
  for (const storage::NodePath& node : vm.nodes()) by_path[node.path].push_back(node);
  auto pending = std::make_shared<Pending>();
  pending->handler = std::move(handler);
  if (!context.probe) {
    pending->reach.all_reached = by_path.empty();
    pending->reach.reason = "no helper process could be started to look at the storage first";
  }
  pending->waiting = by_path.size();
  if (by_path.empty() || !context.probe)
    return boost::asio::post(context.io, [pending] { pending->handler(pending->reach); });
  for (const auto& entry : by_path) {
    const std::vector<storage::NodePath>& nodes = entry.second;
    const std::string path = vm.descriptor_path(entry.first);
    context.probe->look(
        vm.pid(), path, kReachDeadline,
        [pending, &context, nodes, id = vm.id()](const host::StorageProbe::NodeAnswer& answer) {
          for (const storage::NodePath& node : nodes) context.recorder.add(node_record(id, node, answer));
          if (!answer.reached) {
            pending->reach.all_reached = false;
            ++pending->reach.unreached;
            pending->reach.reason = nodes.front().path + " did not answer a helper process within " +
                                    human_duration(static_cast<std::int64_t>(answer.facts.file.waited_ns));
          }
          if (--pending->waiting == 0) pending->handler(pending->reach);
        });
  }
}

Collector::Collector(Context& context, VmWatch& vm, std::function<void()> done)
    : context_(context), vm_(vm), done_(std::move(done)) {}

void Collector::start() {
  began_ns_ = clock::now_ns();
  saw_end_ = vm_.gone_;
  step_begins();
  step_begins();
  // The helper looks at the files while the threads are looked at here.
  reach_nodes(context_, vm_, [self = shared_from_this()](const Reach& reach) {
    if (self->finished_) return;
    self->overdue_ += static_cast<std::uint32_t>(reach.unreached);
    if (!reach.all_reached) self->missing_ = reach.reason;
    self->ask_storage(reach);
    self->step_ended();
  });
  look_at_host();
  ask_monitor();
  // The first step is closed from the io_context, so that `done` is never called from here.
  boost::asio::post(context_.io, [self = shared_from_this()] {
    if (!self->finished_) self->step_ended();
  });
}

void Collector::look_at_host() {
  const std::uint64_t now = clock::now_ns();
  record::Recorder& recorder = context_.recorder;
  if (vm_.watched_by_process()) {
    recorder.add(vm_.watch_.record(now, vm_.id_));
    vm_.cgroup_.refresh();
    recorder.add(vm_.cgroup_.record(now, vm_.id_));
    for (const auto& record : host::thread_records(vm_.process_.pid, vm_.roles_, now, vm_.id_))
      recorder.add(record);
    const host::CgroupPlace& place = vm_.cgroup_.place();
    if (!place.unified.empty())
      if (const auto record = host::cgroup_pressure(place.unified, place.path, now, vm_.id_))
        recorder.add(*record);
  }
  if (context_.psi)
    if (const auto record = host::host_pressure(now)) recorder.add(*record);
  if (context_.kmsg) context_.kmsg->drain();
  if (context_.ledger) context_.ledger->drain();
  if (vm_.watched_by_process()) context_.links->look(now, vm_.id_);
  if (context_.listener) context_.listener->drain();
  if (context_.calls) context_.calls->drain();
  ask_owner();
  if (vm_.process_.log_file.empty() || !context_.probe) return;
  step_begins();
  context_.probe->tail(
      vm_.process_.pid, vm_.process_.log_file, kTailDeadline,
      [self = shared_from_this(), path = vm_.process_.log_file,
       pid = vm_.process_.pid](const host::StorageProbe::TailAnswer& answer) {
        if (self->finished_) return;
        if (!answer.reached) ++self->overdue_;
        trace::LogTail tail{};
        tail.offset = answer.tail.offset;
        tail.pid = pid;
        if (answer.reached && answer.tail.error == 0 && !answer.tail.text.empty())
          self->context_.recorder.add(trace::make_record(clock::now_ns(), self->vm_.id_, tail,
                                                         trace::join_text({path, answer.tail.text})));
        self->step_ended();
      });
}

void Collector::ask_owner() {
  if (vm_.process_.owner != qmp::Owner::libvirt || vm_.process_.name.empty() || vm_.gone_) return;
  step_begins();
  host::ask_domain_state(context_.io, vm_.process_.name, kOwnerDeadline,
                         [self = shared_from_this(), asked = clock::now_ns()](const std::string& state) {
                           if (self->finished_) return;
                           if (!state.empty())
                             self->context_.recorder.add(
                                 trace::make_record(clock::now_ns(), self->vm_.id_, trace::OwnerState{asked},
                                                    trace::join_text({"libvirt", state})));
                           self->step_ended();
                         });
}

std::string Collector::why_not_ask() const {
  if (vm_.gone_) return "the process has ended";
  if (!vm_.link_ || !vm_.link_->ready()) return vm_.why_not_asked();
  // A question to a process that is stopped would only be answered after the next hours of its sleep.
  const auto stat = vm_.watched_by_process() ? vm_.watch_.sample() : std::nullopt;
  if (stat && (stat->state == 'T' || stat->state == 't'))
    return std::string("the process is stopped (") + stat->state + ")";
  if (vm_.watched_by_process() && vm_.cgroup_.freezer() == trace::FreezerState::frozen)
    return "the process's control group is frozen";
  if (!vm_.link_->healthy()) return "QEMU has not answered an earlier question";
  return {};
}

void Collector::withhold(std::span<const char* const> commands, const std::string& reason) {
  const bool could = vm_.listening_ || (vm_.link_ && vm_.link_->ready());
  if (!could || vm_.gone_) return;
  for (const char* command : commands)
    context_.recorder.add(trace::make_record(clock::now_ns(), vm_.id_, trace::QmpWithheld{},
                                             trace::join_text({command, reason})));
}

void Collector::ask_monitor() {
  const std::string reason = why_not_ask();
  if (!reason.empty()) withhold(kPlainQuestions, reason);
  if (!reason.empty()) return;
  for (const char* command : kPlainQuestions) ask(command);
}

void Collector::ask_storage(const Reach& reach) {
  std::string reason = why_not_ask();
  if (reason.empty() && !reach.all_reached) reason = reach.reason;
  if (reason.empty()) reason = vm_.hung_storage();
  if (!reason.empty()) withhold(kStorageQuestions, reason);
  if (!reason.empty()) return;
  for (const char* command : kStorageQuestions) ask(command);
}

void Collector::ask(const char* command) {
  step_begins();
  boost::json::object arguments;
  if (std::string_view(command) == "query-named-block-nodes") arguments["flat"] = true;
  vm_.link_->ask(command, std::move(arguments),
                 [self = shared_from_this(), command](const qmp::Result<qmp::Reply>& reply) {
                   if (self->finished_) return;
                   if (!reply && reply.error().code == qmp::Errc::reply_timeout) {
                     ++self->overdue_;
                     if (self->missing_.empty())
                       self->missing_ = std::string(command) + " was not answered in time";
                   }
                   if (reply && std::string_view(command) == "query-named-block-nodes")
                     self->vm_.take_nodes(reply->value);
                   self->step_ended();
                 });
}

void Collector::step_ended() {
  if (--open_steps_ == 0) finish(missing_);
}

void Collector::finish(const std::string& missing) {
  if (std::exchange(finished_, true)) return;
  if (context_.kmsg) context_.kmsg->drain();
  trace::Collected collected{};
  collected.began_ns = began_ns_;
  collected.overdue = overdue_;
  context_.recorder.add(trace::make_record(clock::now_ns(), vm_.id_, collected, missing));
  context_.recorder.flush();
  if (done_) std::exchange(done_, nullptr)();
}

void Collector::abandon() {
  done_ = nullptr;
  finish(missing_.empty() ? "the run ended before the collection did" : missing_);
}

}  // namespace vmwhy::qmp_pausewatch
