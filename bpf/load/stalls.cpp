// SPDX-License-Identifier: BSD-2-Clause
#include "bpf/load/stalls.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

#include "bpf/load/kernel_btf.hpp"
#include "bpf/load/log.hpp"
#include "bpf/load/programs.hpp"
#include "bpf/stalls.skel.h"

namespace vmwhy::bpf {
namespace {

struct Tracepoint {
  stalls_probe probe;
  const char* name;
  bool kvm;
  bool needed;  ///< Without it nothing can be accounted.
};
constexpr std::array<Tracepoint, STALLS_PROBES> kTracepoints{{
    {STALLS_PROBE_EXIT, "sched_process_exit", false, true},
    {STALLS_PROBE_EXEC, "sched_process_exec", false, false},
    {STALLS_PROBE_MIGRATE, "sched_migrate_task", false, false},
    {STALLS_PROBE_SIGNAL, "signal_generate", false, false},
    {STALLS_PROBE_VICTIM, "mark_victim", false, false},
    {STALLS_PROBE_RECLAIM_END, "mm_vmscan_direct_reclaim_end", false, false},
    {STALLS_PROBE_RECLAIM_BEGIN, "mm_vmscan_direct_reclaim_begin", false, false},
    {STALLS_PROBE_MEMCG_END, "mm_vmscan_memcg_reclaim_end", false, false},
    {STALLS_PROBE_MEMCG_BEGIN, "mm_vmscan_memcg_reclaim_begin", false, false},
    {STALLS_PROBE_WAKEUP, "sched_wakeup", false, true},
    {STALLS_PROBE_SWITCH, "sched_switch", false, true},
    {STALLS_PROBE_KVM_WAKEUP, "kvm_vcpu_wakeup", true, false},
    {STALLS_PROBE_KVM_EXIT, "kvm_exit", true, false},
    {STALLS_PROBE_KVM_FPU, "kvm_fpu", true, false},
    {STALLS_PROBE_KVM_USERSPACE, "kvm_userspace_exit", true, false},
    {STALLS_PROBE_KVM_ENTRY, "kvm_entry", true, false},
}};

// System calls in which a thread waits for something to do.
constexpr long kIdleCalls[] = {
#ifdef SYS_poll
    SYS_poll,      SYS_select,          SYS_epoll_wait,
#endif
    SYS_ppoll,     SYS_restart_syscall, SYS_pselect6,        SYS_epoll_pwait,   SYS_epoll_pwait2,
    SYS_nanosleep, SYS_clock_nanosleep, SYS_rt_sigtimedwait, SYS_rt_sigsuspend, SYS_io_getevents,
    SYS_wait4,     SYS_waitid,          SYS_accept4};

// A row and its user stacks cost 21 KiB. Threads beyond so many go without user stacks.
constexpr std::uint32_t kMostUserStacks = 4096;

constexpr std::uint32_t bit(stalls_state state) {
  return 1u << state;
}

std::uint64_t boottime_ns() {
  timespec at{};
  ::clock_gettime(CLOCK_BOOTTIME, &at);
  return static_cast<std::uint64_t>(at.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(at.tv_nsec);
}

// Maps an array map: its values lie behind each other, each rounded up to 8 bytes.
Result<void*> map_values(const bpf_map* map, std::size_t bytes, const char* what) {
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0);
  if (at == MAP_FAILED) return system_failure(errno, std::string("cannot map ") + what);
  return at;
}

}  // namespace

std::uint32_t stalls_good_mask(bool enters_guest) {
  const std::uint32_t common =
      bit(STALLS_UNKNOWN) | bit(STALLS_HALTED) | bit(STALLS_HALT_POLL) | bit(STALLS_IDLE) | bit(STALLS_GUEST);
  return enters_guest ? common : common | bit(STALLS_RUNNING) | bit(STALLS_KVM) | bit(STALLS_QEMU);
}

const char* stalls_state_name(std::uint32_t state) {
  static constexpr const char* kNames[STALLS_STATES] = {
      "unknown",   "running", "guest", "kvm",     "qemu", "halted",  "halt_poll", "waiting",
      "throttled", "idle",    "lock",  "blocked", "disk", "reclaim", "stopped",   "frozen"};
  return state < STALLS_STATES ? kNames[state] : "";
}

class Stalls::Impl {
 public:
  struct Probe {
    StallsProbe status;
    stalls_probe number{};
    bool needed = false;
    bpf_program* program = nullptr;
    bpf_link* link = nullptr;
  };

  ~Impl() {
    detach();
    if (rows) ::munmap(rows, rows_bytes);
    if (pages) ::munmap(pages, pages_bytes);
    if (users) ::munmap(users, users_bytes);
    if (skeleton) stalls_bpf__destroy(skeleton);
  }

  void detach() {
    for (auto probe = probes.rbegin(); probe != probes.rend(); ++probe) {
      bpf_link__destroy(probe->link);
      probe->link = nullptr;
    }
  }

  void choose(const Environment& environment, const KernelBtf& kernel);
  void set_options(const Environment& environment, const KernelBtf& kernel);
  Result<void> load(std::uint32_t pid_max);
  std::uint16_t* place_of(std::uint32_t tid) const {
    const std::uint32_t page = tid / STALLS_PAGE_TIDS;
    if (page >= page_count) return nullptr;
    return &static_cast<stalls_tids*>(pages)[page].slot[tid % STALLS_PAGE_TIDS];
  }
  /// The first of a bit sets it, the last takes it away.
  void let_through(std::uint32_t tid, bool let) {
    std::uint32_t& count = filtered[tid % STALLS_FILTER];
    count += let ? 1u : -1u;
    const std::uint64_t mask = std::uint64_t{1} << (tid % 64);
    auto& word = skeleton->bss->filter[tid / 64 % (STALLS_FILTER / 64)];
    __atomic_store_n(&word, count != 0 ? word | mask : word & ~mask, __ATOMIC_RELEASE);
  }
  stalls_thread& row(std::uint32_t slot) const { return static_cast<stalls_thread*>(rows)[slot]; }

  StallsOptions options;
  stalls_bpf* skeleton = nullptr;
  std::vector<Probe> probes;
  bool guest_entries = false;
  void* rows = nullptr;
  void* pages = nullptr;
  void* users = nullptr;
  std::size_t rows_bytes = 0, pages_bytes = 0, users_bytes = 0;
  std::uint32_t page_count = 0;
  std::vector<std::uint32_t> free_slots;
  std::array<std::uint32_t, STALLS_FILTER> filtered{};  ///< How many threads share a bit of the filter.
};

void Stalls::Impl::choose(const Environment& environment, const KernelBtf& kernel) {
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, skeleton->obj) bpf_program__set_autoload(program, false);
  const bool raw = options.form == StallsOptions::Form::raw;
  const Isa isa = options.isa != Isa::unknown ? options.isa : environment.isa;
  guest_entries = options.kvm && isa != Isa::pvm && isa != Isa::unknown &&
                  (raw || kernel.tracepoint_arguments("kvm_exit"));
  for (const Tracepoint& point : kTracepoints) {
    Probe probe;
    probe.status.name = point.name;
    probe.number = point.probe;
    probe.needed = point.needed;
    const bool entries = point.probe == STALLS_PROBE_KVM_ENTRY || point.probe == STALLS_PROBE_KVM_EXIT;
    if (point.kvm && (!options.kvm || (!raw && !environment.kvm)))
      probe.status.error = options.kvm ? "kvm is not loaded" : "not asked for";
    else if (entries && !guest_entries)
      probe.status.error = isa == Isa::pvm ? "does not fire under PVM" : "no BTF of the kvm modules";
    else if (std::find(options.lacking.begin(), options.lacking.end(), point.name) != options.lacking.end() ||
             (!raw && !kernel.tracepoint_arguments(point.name)))
      probe.status.error = "this kernel's BTF shows no such tracepoint";
    else
      probe.program = bpf_object__find_program_by_name(skeleton->obj,
                                                       ((raw ? "raw_" : "btf_") + probe.status.name).c_str());
    if (probe.program) bpf_program__set_autoload(probe.program, true);
    probes.push_back(std::move(probe));
  }
  bpf_program__set_autoload(skeleton->progs.look_at_tasks, !raw);
}

void Stalls::Impl::set_options(const Environment& environment, const KernelBtf& kernel) {
  auto& rodata = *skeleton->rodata;
  rodata.isa = static_cast<std::uint32_t>(options.isa != Isa::unknown ? options.isa : environment.isa);
  rodata.exit_arguments = environment.exit_arguments.value_or(2);
  rodata.switch_arguments = kernel.tracepoint_arguments("sched_switch").value_or(4);
  rodata.victim_arguments = kernel.tracepoint_arguments("mark_victim").value_or(1);
  rodata.guest_entries = guest_entries;
  rodata.futex_call = SYS_futex;
  rodata.ioctl_call = SYS_ioctl;
  rodata.kvm_good = stalls_good_mask(true);
  rodata.vcpu_threshold_ns = options.vcpu_threshold_ns;
  for (const long call : kIdleCalls)
    if (call >= 0 && call < 512) rodata.idle_call[call] = 1;
}

Result<void> Stalls::Impl::load(std::uint32_t pid_max) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t ring = std::bit_ceil(std::clamp<std::size_t>(options.ring_bytes, page, 1u << 30));
  page_count = pid_max / STALLS_PAGE_TIDS + 1;
  const auto cpus = static_cast<std::uint32_t>(std::max(libbpf_num_possible_cpus(), 1));
  LogCapture log;
  int error = bpf_map__set_max_entries(skeleton->maps.stalls_ring, static_cast<std::uint32_t>(ring));
  if (error == 0) error = bpf_map__set_max_entries(skeleton->maps.threads, options.max_threads);
  const std::uint32_t user_stacks = 2 * std::min(options.max_threads, kMostUserStacks);
  if (error == 0) error = bpf_map__set_max_entries(skeleton->maps.user_stacks, user_stacks);
  if (error == 0) error = bpf_map__set_max_entries(skeleton->maps.slot_by_tid, page_count);
  if (error == 0) error = bpf_map__set_max_entries(skeleton->maps.waiting_for, cpus);
  if (error == 0) error = stalls_bpf__load(skeleton);
  if (error != 0) return system_failure(error, "cannot load the stalls probe (" + log.last() + ")");
  rows_bytes = options.max_threads * sizeof(stalls_thread);
  pages_bytes = page_count * sizeof(stalls_tids);
  auto mapped = map_values(skeleton->maps.threads, rows_bytes, "the table of threads");
  if (!mapped) return mapped.error();
  rows = *mapped;
  mapped = map_values(skeleton->maps.slot_by_tid, pages_bytes, "the table of thread ids");
  if (!mapped) return mapped.error();
  pages = *mapped;
  users_bytes = user_stacks * sizeof(stalls_user);
  mapped = map_values(skeleton->maps.user_stacks, users_bytes, "the table of user stacks");
  if (!mapped) return mapped.error();
  users = *mapped;
  for (std::uint32_t slot = options.max_threads; slot > 0; --slot) free_slots.push_back(slot - 1);
  return {};
}

Stalls::Stalls(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Stalls::~Stalls() = default;

Result<std::unique_ptr<Stalls>> Stalls::load(const Environment& environment, const StallsOptions& options) {
  if (const auto obstacle = environment.obstacle(false); obstacle && options.custom_btf.empty())
    return *obstacle;
  if (options.max_threads == 0 || options.max_threads > 65534)
    return system_failure(EINVAL, "room for 1 to 65534 threads can be made");
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  LogCapture log;
  bpf_object_open_opts open{};
  open.sz = sizeof(open);
  if (!options.custom_btf.empty()) open.btf_custom_path = options.custom_btf.c_str();
  impl->skeleton = stalls_bpf__open_opts(&open);
  if (!impl->skeleton) return system_failure(errno, "cannot open the stalls probe (" + log.last() + ")");
  const KernelBtf kernel("/sys/kernel/btf", {"kvm", "kvm_intel", "kvm_amd", "kvm_pvm"});
  impl->choose(environment, kernel);
  impl->set_options(environment, kernel);
  if (auto done = impl->load(environment.pid_max); !done) return done.error();
  return std::unique_ptr<Stalls>(new Stalls(std::move(impl)));
}

Result<void> Stalls::attach() {
  for (Impl::Probe& probe : impl_->probes) {
    if (!probe.program || probe.link) continue;
    LogCapture log;
    probe.link = bpf_program__attach(probe.program);
    probe.status.attached = probe.link != nullptr;
    if (probe.link) continue;
    probe.status.error = std::strerror(errno);
    if (probe.needed) return system_failure(errno, "cannot attach to the tracepoint " + probe.status.name);
  }
  for (const Impl::Probe& probe : impl_->probes)
    if (probe.needed && !probe.link)
      return system_failure(ENOTSUP, "the tracepoint " + probe.status.name + ": " + probe.status.error);
  return {};
}

void Stalls::detach() {
  impl_->detach();
}

Result<std::uint32_t> Stalls::add(std::uint32_t tgid, std::uint32_t tid, std::uint64_t threshold_ns) {
  std::uint16_t* place = impl_->place_of(tid);
  if (!place) return system_failure(ERANGE, "thread " + std::to_string(tid) + " is above kernel.pid_max");
  if (*place != 0) return system_failure(EEXIST, "thread " + std::to_string(tid) + " is registered");
  if (impl_->free_slots.empty())
    return system_failure(ENOSPC, "no room for thread " + std::to_string(tid),
                          "watch fewer VMs, or make room with --max-threads");
  const std::uint32_t slot = impl_->free_slots.back();
  impl_->free_slots.pop_back();
  stalls_thread& row = impl_->row(slot);
  std::memset(&row, 0, sizeof row);
  row.since_ns = boottime_ns();
  row.threshold_ns = threshold_ns;
  row.good = stalls_good_mask(false);
  row.phase = STALLS_RUNNING;
  row.vcpu_id = -1;
  row.stall.slot = slot;
  row.stall.exit_code = UINT32_MAX;
  row.stall.user_code = -1;
  row.block.syscall = -1;
  row.wait_cpu = UINT32_MAX;  // A list may still hold the slot's last thread.
  row.pid_tgid = static_cast<std::uint64_t>(tgid) << 32 | tid;
  __atomic_store_n(place, static_cast<std::uint16_t>(slot + 1), __ATOMIC_RELEASE);
  impl_->let_through(tid, true);
  return slot;
}

void Stalls::remove(std::uint32_t slot) {
  if (slot >= impl_->options.max_threads || impl_->row(slot).pid_tgid == 0) return;
  stalls_thread& row = impl_->row(slot);
  std::uint16_t* place = impl_->place_of(static_cast<std::uint32_t>(row.pid_tgid));
  if (place && *place == slot + 1) __atomic_store_n(place, 0, __ATOMIC_RELEASE);
  impl_->let_through(static_cast<std::uint32_t>(row.pid_tgid), false);
  __atomic_store_n(&row.pid_tgid, 0, __ATOMIC_RELEASE);
  row.wait_cpu = UINT32_MAX;  // Lists that hold it let it go.
  // Used again last: a probe that still holds the row has long let go of it by then.
  impl_->free_slots.insert(impl_->free_slots.begin(), slot);
}

void Stalls::settle() {
  bpf_program* program = impl_->skeleton->progs.look_at_tasks;
  if (!bpf_program__autoload(program)) return;
  LogCapture log;
  bpf_link* link = bpf_program__attach_iter(program, nullptr);
  if (!link) return;
  const int fd = bpf_iter_create(bpf_link__fd(link));
  char nothing[64];
  while (fd >= 0 && ::read(fd, nothing, sizeof nothing) > 0) {
  }
  if (fd >= 0) ::close(fd);
  bpf_link__destroy(link);
}

std::optional<stalls_thread> Stalls::read(std::uint32_t slot) const {
  if (slot >= impl_->options.max_threads) return {};
  const stalls_thread& row = impl_->row(slot);
  if (__atomic_load_n(&row.pid_tgid, __ATOMIC_ACQUIRE) == 0) return {};
  for (int tries = 0; tries < 10'000; ++tries) {
    const std::uint32_t before = __atomic_load_n(&row.seq, __ATOMIC_ACQUIRE);
    if (before & 1) continue;
    stalls_thread copy;
    std::memcpy(&copy, &row, sizeof copy);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (__atomic_load_n(&row.seq, __ATOMIC_RELAXED) == before) return copy;
  }
  return {};
}

std::unique_ptr<stalls_user> Stalls::user_stack(std::uint32_t slot, const stalls_block& block) const {
  if (block.user == 0 || block.user > 2 || slot >= impl_->users_bytes / sizeof(stalls_user) / 2) return {};
  const stalls_user& user = static_cast<const stalls_user*>(impl_->users)[2 * slot + block.user - 1];
  auto out = std::make_unique<stalls_user>();
  std::memcpy(out.get(), &user, sizeof user);
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  // Another sleep may have taken its place meanwhile.
  const bool same =
      out->since_ns == block.since_ns && __atomic_load_n(&user.since_ns, __ATOMIC_RELAXED) == block.since_ns;
  return same ? std::move(out) : nullptr;
}

std::uint64_t Stalls::stalled_since(std::uint32_t slot) const {
  if (slot >= impl_->options.max_threads) return 0;
  const stalls_thread& row = impl_->row(slot);
  if (__atomic_load_n(&row.pid_tgid, __ATOMIC_ACQUIRE) == 0) return 0;
  return __atomic_load_n(&row.stall.begin_ns, __ATOMIC_ACQUIRE);
}

std::uint32_t Stalls::capacity() const {
  return impl_->options.max_threads;
}

bool Stalls::tells_guest() const {
  return std::any_of(impl_->probes.begin(), impl_->probes.end(), [](const Impl::Probe& probe) {
    return probe.number == STALLS_PROBE_KVM_ENTRY && probe.status.attached;
  });
}

namespace {
std::uint64_t counter(const stalls_bpf& skeleton, std::uint32_t row) {
  std::vector<std::uint64_t> values(static_cast<std::size_t>(std::max(libbpf_num_possible_cpus(), 1)));
  std::uint64_t sum = 0;
  if (bpf_map_lookup_elem(bpf_map__fd(skeleton.maps.stalls_stats), &row, values.data()) != 0) return 0;
  for (const std::uint64_t value : values) sum += value;
  return sum;
}
}  // namespace

std::vector<StallsProbe> Stalls::probes() const {
  std::vector<StallsProbe> out;
  for (const Impl::Probe& probe : impl_->probes) {
    out.push_back(probe.status);
    out.back().hits = counter(*impl_->skeleton, probe.number);
  }
  return out;
}

StallsLosses Stalls::losses() const {
  const stalls_bpf& skeleton = *impl_->skeleton;
  return {counter(skeleton, STALLS_STAT_RING_FULL), counter(skeleton, STALLS_STAT_WAITERS_FULL),
          counter(skeleton, STALLS_STAT_READ_FAILED), counter(skeleton, STALLS_STAT_SWITCH_MISSED)};
}

int Stalls::ring_fd() const {
  return bpf_map__fd(impl_->skeleton->maps.stalls_ring);
}

int Stalls::test_run(const std::string& program, std::vector<std::uint64_t> arguments) const {
  return bpf::test_run(impl_->skeleton->obj, program, std::move(arguments));
}

std::pair<std::uint64_t, std::uint64_t> Stalls::run_time() const {
  std::vector<const bpf_program*> programs;
  for (const Impl::Probe& probe : impl_->probes) programs.push_back(probe.program);
  return bpf::run_time(programs);
}

}  // namespace vmwhy::bpf
