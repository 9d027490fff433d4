// SPDX-License-Identifier: BSD-2-Clause
#include "bpf/load/qmp_tap.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <optional>

#include "bpf/load/kernel_btf.hpp"
#include "bpf/load/log.hpp"
#include "bpf/load/programs.hpp"
#include "bpf/qmp_tap.skel.h"

namespace vmwhy::bpf {
namespace {

using Form = QmpTapOptions::Form;

}  // namespace

const char* QmpTapLosses::name(unsigned stat) {
  static constexpr const char* kNames[QMP_TAP_STATS] = {
      "calls", "bytes", "ring_full", "unread", "unknown_calls", "unknown_lost", "read_failed"};
  return stat < QMP_TAP_STATS ? kNames[stat] : "";
}

class QmpTap::Impl {
 public:
  ~Impl() {
    for (bpf_link* link : links) bpf_link__destroy(link);
    if (skeleton != nullptr) qmp_tap_bpf__destroy(skeleton);
  }

  Result<void> load(const QmpTapOptions& options, Form want);
  Result<void> attach(bpf_program* program);
  Result<void> attach_all();

  qmp_tap_bpf* skeleton = nullptr;
  std::vector<bpf_link*> links;
  std::vector<bpf_program*> programs;
  std::string form;
  bool follows = false;
};

Result<void> QmpTap::Impl::load(const QmpTapOptions& options, Form want) {
  LogCapture log;
  skeleton = qmp_tap_bpf__open();
  if (skeleton == nullptr) return system_failure(errno, "cannot open the qmp_tap probe (" + log.last() + ")");
  const auto& all = skeleton->progs;
  const bool tracepoint = want == Form::tracepoint;
  bpf_program* each = nullptr;
  bpf_object__for_each_program(each, skeleton->obj) bpf_program__set_autoload(each, false);
  programs = tracepoint ? std::vector{all.btf_sock_send_length, all.btf_sock_recv_length}
                        : std::vector{all.leave_unix_stream_sendmsg, all.leave_unix_stream_recvmsg};
  form = tracepoint ? "tracepoint" : "fexit";
  for (bpf_program* program : programs) bpf_program__set_autoload(program, true);
  if (options.follow) bpf_program__set_autoload(all.raw_sched_process_exec, true);
  skeleton->rodata->nr_read = SYS_read;
  skeleton->rodata->nr_write = SYS_write;
  skeleton->rodata->nr_sendto = SYS_sendto;
  skeleton->rodata->nr_recvfrom = SYS_recvfrom;
  skeleton->rodata->nr_readv = SYS_readv;
  skeleton->rodata->nr_writev = SYS_writev;
  skeleton->rodata->nr_sendmsg = SYS_sendmsg;
  skeleton->rodata->nr_recvmsg = SYS_recvmsg;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t ring = std::bit_ceil(std::clamp<std::size_t>(options.ring_bytes, page, 1u << 30));
  int error = bpf_map__set_max_entries(skeleton->maps.qmp_tap_ring, static_cast<std::uint32_t>(ring));
  if (error == 0) error = qmp_tap_bpf__load(skeleton);
  if (error != 0) return system_failure(error, "cannot load the qmp_tap probe (" + log.last() + ")");
  follows = options.follow;
  return {};
}

Result<void> QmpTap::Impl::attach(bpf_program* program) {
  LogCapture log;
  bpf_link* link = bpf_program__attach(program);
  if (link == nullptr)
    return system_failure(errno, std::string("cannot attach ") + bpf_program__name(program));
  links.push_back(link);
  return {};
}

Result<void> QmpTap::Impl::attach_all() {
  for (bpf_program* program : programs)
    if (auto done = attach(program); !done) return done;
  // Without it, a QEMU that starts is found by looking for it.
  if (follows && !attach(skeleton->progs.raw_sched_process_exec)) follows = false;
  return {};
}

QmpTap::QmpTap(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
QmpTap::~QmpTap() = default;

Result<std::unique_ptr<QmpTap>> QmpTap::open(const Environment& environment, const QmpTapOptions& options) {
  if (const auto obstacle = environment.obstacle(false)) return *obstacle;
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  // Of the form that was to be preferred.
  std::optional<Failure> first;
  const bool has_tracepoint =
      KernelBtf("/sys/kernel/btf", {}).tracepoint_arguments("sock_send_length").has_value();
  for (const Form form : {Form::tracepoint, Form::function}) {
    if (options.form != Form::automatic && options.form != form) continue;
    if (form == Form::tracepoint && !has_tracepoint) {
      if (options.form == form)
        first = system_failure(ENOTSUP, "no tracepoint sock_send_length here", "Linux 6.3 or later");
      continue;
    }
    auto impl = std::make_unique<Impl>();
    Result<void> done = impl->load(options, form);
    if (done) done = impl->attach_all();
    if (done) return std::unique_ptr<QmpTap>(new QmpTap(std::move(impl)));
    if (!first) first = done.error();
  }
  return *first;
}

Result<void> QmpTap::watch(std::uint32_t pid) {
  const std::uint8_t one = 1;
  if (bpf_map_update_elem(bpf_map__fd(impl_->skeleton->maps.watched_pids), &pid, &one, BPF_ANY) != 0)
    return system_failure(errno, "cannot listen to the monitors of process " + std::to_string(pid),
                          "watch fewer processes");
  return {};
}

void QmpTap::unwatch(std::uint32_t pid) {
  bpf_map_delete_elem(bpf_map__fd(impl_->skeleton->maps.watched_pids), &pid);
}

Result<void> QmpTap::set_socket(std::uint64_t ino, qmp_tap_verdict verdict) {
  qmp_tap_socket row{};
  if (verdict == QMP_TAP_MONITOR && is_monitor(ino)) return {};
  row.verdict = verdict;
  if (bpf_map_update_elem(bpf_map__fd(impl_->skeleton->maps.sockets), &ino, &row, BPF_ANY) != 0)
    return system_failure(errno, "cannot listen to one more socket", "watch fewer processes");
  return {};
}

void QmpTap::forget_socket(std::uint64_t ino) {
  bpf_map_delete_elem(bpf_map__fd(impl_->skeleton->maps.sockets), &ino);
}

bool QmpTap::is_monitor(std::uint64_t ino) const {
  qmp_tap_socket row{};
  return bpf_map_lookup_elem(bpf_map__fd(impl_->skeleton->maps.sockets), &ino, &row) == 0 &&
         row.verdict == QMP_TAP_MONITOR;
}

const std::string& QmpTap::form() const {
  return impl_->form;
}

bool QmpTap::follows() const {
  return impl_->follows;
}

QmpTapLosses QmpTap::losses() const {
  QmpTapLosses out;
  const int fd = bpf_map__fd(impl_->skeleton->maps.qmp_tap_stats);
  std::vector<std::uint64_t> values(static_cast<std::size_t>(std::max(libbpf_num_possible_cpus(), 1)));
  for (std::uint32_t stat = 0; stat < QMP_TAP_STATS; ++stat) {
    if (bpf_map_lookup_elem(fd, &stat, values.data()) != 0) continue;
    for (const std::uint64_t value : values) out.counters[stat] += value;
  }
  for (const bpf_program* program : impl_->programs) {
    bpf_prog_info info{};
    std::uint32_t size = sizeof(info);
    if (bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size) == 0)
      out.missed += info.recursion_misses;
  }
  return out;
}

std::pair<std::uint64_t, std::uint64_t> QmpTap::run_time() const {
  return bpf::run_time({impl_->programs.begin(), impl_->programs.end()});
}

int QmpTap::ring_fd() const {
  return bpf_map__fd(impl_->skeleton->maps.qmp_tap_ring);
}

}  // namespace vmwhy::bpf
