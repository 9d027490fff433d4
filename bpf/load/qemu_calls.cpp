// SPDX-License-Identifier: BSD-2-Clause
#include "bpf/load/qemu_calls.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <vector>

#include "bpf/load/log.hpp"
#include "bpf/qemu_calls.skel.h"

namespace vmwhy::bpf {

class QemuCalls::Impl {
 public:
  ~Impl() {
    if (skeleton != nullptr) qemu_calls_bpf__destroy(skeleton);
  }
  qemu_calls_bpf* skeleton = nullptr;
};

QemuCalls::QemuCalls(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
QemuCalls::~QemuCalls() = default;

Result<std::unique_ptr<QemuCalls>> QemuCalls::open(const Environment& environment, std::size_t ring_bytes) {
  if (const auto obstacle = environment.obstacle(false)) return *obstacle;
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  LogCapture log;
  auto impl = std::make_unique<Impl>();
  impl->skeleton = qemu_calls_bpf__open();
  if (impl->skeleton == nullptr)
    return system_failure(errno, "cannot open the qemu_calls probe (" + log.last() + ")");
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t ring = std::bit_ceil(std::clamp<std::size_t>(ring_bytes, page, 1u << 30));
  int error =
      bpf_map__set_max_entries(impl->skeleton->maps.qemu_calls_ring, static_cast<std::uint32_t>(ring));
  if (error == 0) error = qemu_calls_bpf__load(impl->skeleton);
  if (error != 0) return system_failure(error, "cannot load the qemu_calls probe (" + log.last() + ")");
  return std::unique_ptr<QemuCalls>(new QemuCalls(std::move(impl)));
}

Result<void> QemuCalls::watch(std::uint32_t pid) {
  const std::uint8_t one = 1;
  if (bpf_map_update_elem(bpf_map__fd(impl_->skeleton->maps.watched_pids), &pid, &one, BPF_ANY) != 0)
    return system_failure(errno, "cannot follow the functions of process " + std::to_string(pid),
                          "watch fewer processes");
  return {};
}

void QemuCalls::unwatch(std::uint32_t pid) {
  bpf_map_delete_elem(bpf_map__fd(impl_->skeleton->maps.watched_pids), &pid);
}

QemuCallsLosses QemuCalls::losses() const {
  const int fd = bpf_map__fd(impl_->skeleton->maps.qemu_calls_stats);
  const auto sum = [&](std::uint32_t stat) {
    std::vector<std::uint64_t> values(static_cast<std::size_t>(std::max(libbpf_num_possible_cpus(), 1)));
    std::uint64_t total = 0;
    if (bpf_map_lookup_elem(fd, &stat, values.data()) == 0)
      for (const std::uint64_t value : values) total += value;
    return total;
  };
  return {sum(QEMU_CALLS_STAT_CALLS), sum(QEMU_CALLS_STAT_RING_FULL)};
}

int QemuCalls::program_fd() const {
  return bpf_program__fd(impl_->skeleton->progs.enter_qemu_function);
}

int QemuCalls::ring_fd() const {
  return bpf_map__fd(impl_->skeleton->maps.qemu_calls_ring);
}

}  // namespace vmwhy::bpf
