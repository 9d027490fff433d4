// SPDX-License-Identifier: BSD-2-Clause
#include "bpf/load/kvm_exits.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

#include "bpf/kvm_exits.skel.h"
#include "bpf/load/log.hpp"
#include "bpf/load/programs.hpp"

namespace vmwhy::bpf {
namespace {

using Form = KvmExitsOptions::Form;

struct ProbeName {
  kvm_exits_probe probe;
  const char* tracepoint;
};
constexpr std::array<ProbeName, KVM_EXITS_PROBES> kProbes{{
    // Attached in this order: an entry before the first exit is nothing, an exit without its entry is a gap.
    {KVM_EXITS_PROBE_ENTRY, "kvm_entry"},
    {KVM_EXITS_PROBE_FPU, "kvm_fpu"},
    {KVM_EXITS_PROBE_USERSPACE, "kvm_userspace_exit"},
    {KVM_EXITS_PROBE_PIO, "kvm_pio"},
    {KVM_EXITS_PROBE_MMIO, "kvm_mmio"},
    {KVM_EXITS_PROBE_EXIT, "kvm_exit"},
}};

bool wanted(const KvmExitsOptions& options, kvm_exits_probe probe) {
  switch (probe) {
    case KVM_EXITS_PROBE_EXIT:
    case KVM_EXITS_PROBE_ENTRY:
      return options.exits;
    case KVM_EXITS_PROBE_PIO:
      return options.pio;
    case KVM_EXITS_PROBE_MMIO:
      return options.mmio;
    default:  // The trip to QEMU belongs to every latency.
      return options.userspace || options.exits || options.pio || options.mmio;
  }
}

std::size_t round_ring(std::size_t bytes) {
  return std::bit_ceil(
      std::clamp<std::size_t>(bytes, static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)), 1u << 30));
}

}  // namespace

std::uint64_t KvmExitsLosses::lost() const {
  std::uint64_t sum = 0;
  for (unsigned stat = 0; stat < KVM_EXITS_STATS; ++stat)
    if (stat != KVM_EXITS_STAT_NOT_WATCHED && stat != KVM_EXITS_STAT_ADDRESSES_FULL) sum += counters[stat];
  return sum;
}

const char* KvmExitsLosses::name(unsigned stat) {
  static constexpr const char* kNames[KVM_EXITS_STATS] = {
      "not_watched", "vcpus_full", "cells_full", "read_failed", "ring_full", "tid_unknown", "addresses_full"};
  return stat < KVM_EXITS_STATS ? kNames[stat] : "";
}

class KvmExits::Impl {
 public:
  struct Probe {
    ProbeStatus status;
    bpf_program* program = nullptr;
    bpf_link* link = nullptr;
  };

  ~Impl() {
    detach();
    if (rows_mapped) ::munmap(rows_mapped, rows_bytes);
    if (skeleton) kvm_exits_bpf__destroy(skeleton);
  }

  void detach() {
    // kvm_exit first: what is out of the guest now still gets its entry.
    for (auto probe = probes.rbegin(); probe != probes.rend(); ++probe) {
      if (!probe->link) continue;
      bpf_link__destroy(probe->link);
      probe->link = nullptr;
    }
  }

  const kvm_exits_vcpu* row(std::uint32_t i) const {
    return reinterpret_cast<const kvm_exits_vcpu*>(static_cast<const char*>(rows_mapped) +
                                                   i * sizeof(kvm_exits_vcpu));
  }
  std::uint32_t used() const { return std::min(skeleton->bss->vcpus_used, options.max_vcpus); }

  bool direct(const Environment& environment) const {
    return options.direct_reads && environment.word_type != 0;
  }
  void choose(const Environment& environment);
  Result<void> configure(const Environment& environment);
  Result<void> load_and_fill();
  Result<void> open_and_load(const Environment& environment);

  KvmExitsOptions options;
  kvm_exits_bpf* skeleton = nullptr;
  std::vector<Probe> probes;
  void* rows_mapped = nullptr;
  std::size_t rows_bytes = 0;
};

// Which program serves which probe. All others are not loaded.
void KvmExits::Impl::choose(const Environment& environment) {
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, skeleton->obj) bpf_program__set_autoload(program, false);
  const Isa isa = options.isa != Isa::unknown ? options.isa : environment.isa;
  const bool cached =
      environment.cached_reason || options.isa != Isa::unknown || environment.exit_arguments == 3u;
  Form form = options.form;
  if (form == Form::automatic) form = environment.exit_arguments ? Form::btf : Form::raw;
  for (const ProbeName& name : kProbes) {
    Probe probe;
    probe.status.name = name.tracepoint;
    if (wanted(options, name.probe)) {
      const bool is_exit = name.probe == KVM_EXITS_PROBE_EXIT;
      // Where the reason cannot be read from the vCPU, kvm_exit needs its classic form. PVM fires neither.
      const bool classic = is_exit && (form == Form::classic ||
                                       (options.form == Form::automatic && !cached && isa != Isa::pvm));
      probe.status.form = classic ? "classic" : form == Form::btf ? "tp_btf" : "raw_tp";
      const char* prefix = classic ? "classic_" : form == Form::btf ? "btf_" : "raw_";
      const char* suffix = is_exit && !classic && direct(environment) ? "_direct" : "";
      probe.program =
          bpf_object__find_program_by_name(skeleton->obj, (prefix + probe.status.name + suffix).c_str());
      if (classic && !environment.classic_reason_offset) {
        probe.status.error =
            "neither BTF nor tracefs shows where the exit reason stands (mount -t tracefs tracefs "
            "/sys/kernel/tracing)";
        probe.program = nullptr;
      }
      if (probe.program) bpf_program__set_autoload(probe.program, true);
    }
    probes.push_back(std::move(probe));
  }
}

Result<void> KvmExits::Impl::configure(const Environment& environment) {
  kvm_exits_bpf::kvm_exits_bpf__rodata& rodata = *skeleton->rodata;
  rodata.isa = static_cast<std::uint32_t>(options.isa != Isa::unknown ? options.isa : environment.isa);
  rodata.exit_arguments =
      options.exit_arguments ? options.exit_arguments : environment.exit_arguments.value_or(2);
  rodata.word_type = environment.word_type;
  rodata.watch_all = options.all;
  rodata.raw_events = options.raw_events;
  rodata.min_latency_ns = options.min_latency_ns;
  options.max_vcpus = std::clamp<std::uint32_t>(options.max_vcpus, 1, 65534);
  rodata.max_vcpus = options.max_vcpus;
  rodata.classic_reason_offset = environment.classic_reason_offset.value_or(0);
  const std::uint32_t pages = environment.pid_max / KVM_EXITS_PAGE_TIDS + 1;
  int error = bpf_map__set_max_entries(skeleton->maps.vcpus, options.max_vcpus);
  if (!error)
    error = bpf_map__set_max_entries(skeleton->maps.batches, options.raw_events ? options.max_vcpus : 1);
  if (!error) error = bpf_map__set_max_entries(skeleton->maps.slot_by_tid, pages);
  if (!error)
    error = bpf_map__set_max_entries(skeleton->maps.kvm_exits_ring,
                                     static_cast<std::uint32_t>(round_ring(options.ring_bytes)));
  if (error) return system_failure(error, "cannot size the maps of the probe");
  return {};
}

Result<void> KvmExits::Impl::load_and_fill() {
  LogCapture log;
  if (const int error = kvm_exits_bpf__load(skeleton)) {
    const bool memory = error == -ENOMEM || error == -E2BIG;
    return system_failure(error, "cannot load the kvm_exits probe (" + log.last() + ")",
                          memory ? "watch fewer vCPUs (-p PID, --max-vcpus N)" : "");
  }
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  rows_bytes = (options.max_vcpus * sizeof(kvm_exits_vcpu) + page - 1) / page * page;
  void* mapped = ::mmap(nullptr, rows_bytes, PROT_READ, MAP_SHARED, bpf_map__fd(skeleton->maps.vcpus), 0);
  if (mapped == MAP_FAILED) return system_failure(errno, "cannot map the probe's counters");
  rows_mapped = mapped;
  const int watched = bpf_map__fd(skeleton->maps.watched_pids);
  for (const std::uint32_t pid : options.pids) {
    const std::uint8_t one = 1;
    if (bpf_map_update_elem(watched, &pid, &one, BPF_ANY) != 0)
      return system_failure(errno, "cannot watch process " + std::to_string(pid),
                            "watch fewer processes, or all (-a)");
  }
  return {};
}

Result<void> KvmExits::Impl::open_and_load(const Environment& environment) {
  LogCapture log;
  bpf_object_open_opts open{};
  open.sz = sizeof(open);
  if (!options.custom_btf.empty()) open.btf_custom_path = options.custom_btf.c_str();
  skeleton = kvm_exits_bpf__open_opts(&open);
  if (!skeleton) return system_failure(errno, "cannot open the kvm_exits probe (" + log.last() + ")");
  choose(environment);
  if (auto done = configure(environment); !done) return done;
  return load_and_fill();
}

KvmExits::KvmExits(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
KvmExits::~KvmExits() = default;

Result<std::unique_ptr<KvmExits>> KvmExits::load(const Environment& environment,
                                                 const KvmExitsOptions& options) {
  if (const auto obstacle = environment.obstacle(); obstacle && options.custom_btf.empty()) return *obstacle;
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  if (options.form == Form::btf && !environment.exit_arguments)
    return Failure{
        {}, "the kernel shows no BTF of its kvm modules", "let the form be chosen: without --probe"};
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  auto done = impl->open_and_load(environment);
  if (!done &&
      impl->direct(environment)) {  // A verifier that has grown stricter: copying is always let through.
    impl = std::make_unique<Impl>();
    impl->options = options;
    impl->options.direct_reads = false;
    done = impl->open_and_load(environment);
  }
  if (!done) return done.error();
  return std::unique_ptr<KvmExits>(new KvmExits(std::move(impl)));
}

Result<void> KvmExits::attach() {
  Failure last = system_failure(ENOENT, "no probe to attach");
  bool any = false;
  for (Impl::Probe& probe : impl_->probes) {
    if (!probe.program || probe.link) continue;
    LogCapture log;
    probe.link = bpf_program__attach(probe.program);
    probe.status.attached = probe.link != nullptr;
    if (probe.link) {
      any = true;
      continue;
    }
    last = system_failure(errno, "cannot attach to the tracepoint " + probe.status.name,
                          errno == ENOENT ? "load kvm, and mount tracefs on /sys/kernel/tracing" : "");
    probe.status.error = std::strerror(errno);
  }
  if (!any) return last;
  return {};
}

void KvmExits::detach() {
  impl_->detach();
}

std::vector<ProbeStatus> KvmExits::probes() const {
  std::vector<ProbeStatus> out;
  for (std::size_t i = 0; i < kProbes.size(); ++i) {
    if (impl_->probes[i].status.form.empty()) continue;
    out.push_back(impl_->probes[i].status);
    visit([&](const kvm_exits_vcpu& row) { out.back().hits += row.hits[kProbes[i].probe]; });
  }
  return out;
}

KvmExitsLosses KvmExits::losses() const {
  KvmExitsLosses out;
  const int fd = bpf_map__fd(impl_->skeleton->maps.kvm_exits_stats);
  const int cpus = libbpf_num_possible_cpus();
  std::vector<std::uint64_t> values(static_cast<std::size_t>(std::max(cpus, 1)));
  for (std::uint32_t stat = 0; stat < KVM_EXITS_STATS; ++stat) {
    if (bpf_map_lookup_elem(fd, &stat, values.data()) != 0) continue;
    for (const std::uint64_t value : values) out.counters[stat] += value;
  }
  return out;
}

std::uint32_t KvmExits::vcpus() const {
  return impl_->used();
}

void KvmExits::visit(const std::function<void(const kvm_exits_vcpu&)>& visitor) const {
  for (std::uint32_t i = 0; i < impl_->used(); ++i) visitor(*impl_->row(i));
}

std::vector<kvm_exits_vcpu> KvmExits::snapshot() const {
  std::vector<kvm_exits_vcpu> out;
  out.reserve(impl_->used());
  visit([&](const kvm_exits_vcpu& row) { out.push_back(row); });
  return out;
}

int KvmExits::ring_fd() const {
  return bpf_map__fd(impl_->skeleton->maps.kvm_exits_ring);
}

std::vector<kvm_exits_batch> KvmExits::leftovers() const {
  std::vector<kvm_exits_batch> out;
  if (!impl_->options.raw_events) return out;
  const int fd = bpf_map__fd(impl_->skeleton->maps.batches);
  for (std::uint32_t slot = 0; slot < impl_->used(); ++slot) {
    kvm_exits_batch batch{};
    if (bpf_map_lookup_elem(fd, &slot, &batch) != 0 || batch.count == 0 || batch.count > KVM_EXITS_BATCH)
      continue;
    const kvm_exits_vcpu& row = *impl_->row(slot);
    batch.message = KVM_EXITS_MESSAGE_EVENTS;
    batch.tgid = static_cast<std::uint32_t>(row.pid_tgid >> 32);
    batch.tid = static_cast<std::uint32_t>(row.pid_tgid);
    batch.vcpu_id = row.vcpu_id;
    out.push_back(batch);
  }
  return out;
}

int KvmExits::test_run(const std::string& program, std::vector<std::uint64_t> arguments) const {
  return bpf::test_run(impl_->skeleton->obj, program, std::move(arguments));
}

std::pair<std::uint64_t, std::uint64_t> KvmExits::run_time() const {
  std::vector<const bpf_program*> programs;
  for (const Impl::Probe& probe : impl_->probes) programs.push_back(probe.program);
  return bpf::run_time(programs);
}

}  // namespace vmwhy::bpf
