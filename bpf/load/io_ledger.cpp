// SPDX-License-Identifier: BSD-2-Clause
#include "bpf/load/io_ledger.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <optional>

#include "bpf/io_ledger.skel.h"
#include "bpf/load/kernel_btf.hpp"
#include "bpf/load/log.hpp"

namespace vmwhy::bpf {
namespace {

using Form = IoLedgerOptions::Form;

struct Call {
  io_ledger_call call;
  const char* name;
  long number;
};
constexpr std::array kCalls = std::to_array<Call>({
    {IO_LEDGER_PREAD64, "pread64", SYS_pread64},
    {IO_LEDGER_PWRITE64, "pwrite64", SYS_pwrite64},
    {IO_LEDGER_PREADV, "preadv", SYS_preadv},
    {IO_LEDGER_PWRITEV, "pwritev", SYS_pwritev},
    {IO_LEDGER_PREADV2, "preadv2", SYS_preadv2},
    {IO_LEDGER_PWRITEV2, "pwritev2", SYS_pwritev2},
    {IO_LEDGER_FSYNC, "fsync", SYS_fsync},
    {IO_LEDGER_FDATASYNC, "fdatasync", SYS_fdatasync},
    {IO_LEDGER_FALLOCATE, "fallocate", SYS_fallocate},
});

#if defined(__aarch64__)
constexpr const char* kPrefix = "__arm64_sys_";
#else
constexpr const char* kPrefix = "__x64_sys_";
#endif

constexpr std::size_t kSlotsBytes = IO_LEDGER_SLOTS * sizeof(io_ledger_slot);
constexpr std::size_t kBlockSlotsBytes = IO_LEDGER_SLOTS * sizeof(io_ledger_block_slot);

/// Copies of the slots that are taken. What ends while it is read is left out.
template <class Slot>
std::vector<Slot> taken(const void* mapped) {
  std::vector<Slot> out;
  const auto* slots = static_cast<const Slot*>(mapped);
  for (std::size_t i = 0; slots != nullptr && i < IO_LEDGER_SLOTS; ++i) {
    const std::uint64_t owner = __atomic_load_n(&slots[i].owner, __ATOMIC_ACQUIRE);
    const std::uint64_t start = __atomic_load_n(&slots[i].start_ns, __ATOMIC_ACQUIRE);
    if (owner == 0 || start == 0) continue;
    const Slot copy = slots[i];
    // It may have ended, and the slot may be another's, while it was read.
    if (__atomic_load_n(&slots[i].owner, __ATOMIC_ACQUIRE) != owner ||
        __atomic_load_n(&slots[i].start_ns, __ATOMIC_ACQUIRE) != start || copy.start_ns != start)
      continue;
    out.push_back(copy);
  }
  return out;
}

}  // namespace

const char* IoLedgerLosses::name(unsigned stat) {
  static constexpr const char* kNames[IO_LEDGER_STATS] = {"calls",        "ring_full",    "untimed",
                                                          "iov_unread",   "read_failed",  "block_failed",
                                                          "uring_failed", "block_untimed"};
  return stat < IO_LEDGER_STATS ? kNames[stat] : "";
}

const char* call_name(std::uint32_t call) {
  if (call == IO_LEDGER_IO_URING) return "io_uring";
  for (const Call& known : kCalls)
    if (static_cast<std::uint32_t>(known.call) == call) return known.name;
  return "";
}

BlockStatus block_status(std::int64_t result) {
  if (result < 0) return {"", static_cast<int>(-result)};
  // Numbers that kernels since 5.15 agree on; the names are those of its log.
  switch (result) {
    case 1:
      return {"operation not supported", EOPNOTSUPP};
    case 2:
      return {"timeout", ETIMEDOUT};
    case 3:
      return {"critical space allocation", ENOSPC};
    case 4:
      return {"recoverable transport", ENOLINK};
    case 5:
      return {"critical target", EREMOTEIO};
    case 6:
      return {"critical nexus", EBADE};
    case 7:
      return {"critical medium", ENODATA};
    case 8:
      return {"protection", EILSEQ};
    case 9:
      return {"kernel resource", ENOMEM};
    default:
      return {result == 10 ? "I/O" : "", EIO};
  }
}

class IoLedger::Impl {
 public:
  ~Impl() {
    for (bpf_link* link : links) bpf_link__destroy(link);
    if (mapped != nullptr) ::munmap(mapped, kSlotsBytes);
    if (block_mapped != nullptr) ::munmap(block_mapped, kBlockSlotsBytes);
    if (skeleton != nullptr) io_ledger_bpf__destroy(skeleton);
  }

  bpf_program* program(const std::string& name) const {
    return bpf_object__find_program_by_name(skeleton->obj, name.c_str());
  }

  Result<void> load(const IoLedgerOptions& options, Form form, const KernelBtf& kernel);
  Result<void> choose(Form form, const KernelBtf& kernel);
  std::string attach(const std::string& name);
  Result<void> attach_all(Form form);

  io_ledger_bpf* skeleton = nullptr;
  std::vector<bpf_link*> links;
  std::vector<IoLedgerSource> sources;
  std::string block_program, bio_program, uring_program;
  void* mapped = nullptr;
  void* block_mapped = nullptr;
  std::uint32_t rows = 0;
};

// Which programs are loaded, and what they are attached to.
Result<void> IoLedger::Impl::choose(Form form, const KernelBtf& kernel) {
  bpf_program* each = nullptr;
  bpf_object__for_each_program(each, skeleton->obj) bpf_program__set_autoload(each, false);
  if (form == Form::raw) {
    for (const char* name : {"raw_sys_enter", "raw_sys_exit"}) bpf_program__set_autoload(program(name), true);
    for (const Call& call : kCalls)
      if (call.number >= 0 && call.number < IO_LEDGER_NUMBERS)
        skeleton->rodata->call_of[call.number] = static_cast<std::uint8_t>(call.call);
  } else if (form == Form::function) {
    for (const Call& call : kCalls) {
      for (const char* side : {"enter_", "leave_"}) {
        bpf_program* at = program(std::string(side) + call.name);
        bpf_program__set_autoload(at, true);
        if (const int error =
                bpf_program__set_attach_target(at, 0, (std::string(kPrefix) + call.name).c_str()))
          return system_failure(error, std::string("this kernel shows no function of ") + call.name);
      }
    }
  }
  if (kernel.tracepoint_arguments("block_rq_error"))
    block_program = "raw_block_rq_error";
  else if (kernel.tracepoint_arguments("block_rq_complete"))
    block_program = "raw_block_rq_complete";
  if (kernel.tracepoint_arguments("block_bio_complete") == 2u) bio_program = "raw_block_bio_complete";
  const unsigned arguments = kernel.tracepoint_arguments("io_uring_complete").value_or(0);
  skeleton->rodata->uring_arguments = arguments;
  if (arguments == 3 || arguments == 7) uring_program = "raw_io_uring_complete";
  for (const std::string& name : {block_program, bio_program, uring_program})
    if (!name.empty()) bpf_program__set_autoload(program(name), true);
  return {};
}

Result<void> IoLedger::Impl::load(const IoLedgerOptions& options, Form form, const KernelBtf& kernel) {
  LogCapture log;
  skeleton = io_ledger_bpf__open();
  if (skeleton == nullptr)
    return system_failure(errno, "cannot open the io_ledger probe (" + log.last() + ")");
  if (auto done = choose(form, kernel); !done) return done;
  skeleton->rodata->slow_ns = options.slow_ns;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t ring = std::bit_ceil(std::clamp<std::size_t>(options.ring_bytes, page, 1u << 30));
  int error = bpf_map__set_max_entries(skeleton->maps.io_ledger_ring, static_cast<std::uint32_t>(ring));
  rows = options.rows;
  if (rows > 0) {
    skeleton->rodata->with_stats = 1;
    for (const char* name : {"stats_block_rq_issue", "stats_block_rq_complete"})
      bpf_program__set_autoload(program(name), true);
    bpf_map__set_max_entries(skeleton->maps.cells, rows * IO_LEDGER_COLUMNS);
    // QEMU may have a file open several times.
    for (bpf_map* map : {skeleton->maps.file_rows, skeleton->maps.inode_rows, skeleton->maps.disk_rows})
      bpf_map__set_max_entries(map, rows * 4);
  }
  if (error == 0) error = io_ledger_bpf__load(skeleton);
  if (error != 0) return system_failure(error, "cannot load the io_ledger probe (" + log.last() + ")");
  mapped = ::mmap(nullptr, kSlotsBytes, PROT_READ, MAP_SHARED, bpf_map__fd(skeleton->maps.slots), 0);
  if (mapped == MAP_FAILED) {
    mapped = nullptr;
    return system_failure(errno, "cannot map the table of requests");
  }
  if (rows == 0) return {};
  block_mapped =
      ::mmap(nullptr, kBlockSlotsBytes, PROT_READ, MAP_SHARED, bpf_map__fd(skeleton->maps.block_slots), 0);
  if (block_mapped != MAP_FAILED) return {};
  block_mapped = nullptr;
  return system_failure(errno, "cannot map the table of block requests");
}

// @return why not; empty: attached.
std::string IoLedger::Impl::attach(const std::string& name) {
  LogCapture log;
  bpf_link* link = bpf_program__attach(program(name));
  if (link == nullptr) return std::strerror(errno);
  links.push_back(link);
  return {};
}

Result<void> IoLedger::Impl::attach_all(Form form) {
  std::vector<std::string> names;
  if (form == Form::raw) {
    names = {"raw_sys_exit", "raw_sys_enter"};
  } else if (form == Form::function) {
    // The end first: a request that is seen to begin is seen to end.
    for (const Call& call : kCalls)
      for (const char* side : {"leave_", "enter_"}) names.push_back(side + std::string(call.name));
  }
  for (const std::string& name : names)
    if (const std::string error = attach(name); !error.empty())
      return system_failure(errno, "cannot attach " + name);
  if (form != Form::none)
    sources.push_back({"system calls", form == Form::raw ? "raw_tp" : "fexit", true, ""});
  const auto optional = [&](const char* what, const std::string& name) {
    IoLedgerSource source{what, "raw_tp", false, "this kernel's BTF shows no tracepoint of the form known"};
    if (!name.empty()) source.error = attach(name);
    source.attached = source.error.empty();
    sources.push_back(std::move(source));
  };
  optional("block layer", block_program);
  optional("device mapper and md", bio_program);
  optional("io_uring", uring_program);
  if (rows == 0) return {};
  IoLedgerSource statistics{"block statistics", "raw_tp", false, attach("stats_block_rq_complete")};
  if (statistics.error.empty()) statistics.error = attach("stats_block_rq_issue");
  statistics.attached = statistics.error.empty();
  sources.push_back(std::move(statistics));
  return {};
}

IoLedger::IoLedger(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
IoLedger::~IoLedger() = default;

Result<std::unique_ptr<IoLedger>> IoLedger::open(const Environment& environment,
                                                 const IoLedgerOptions& options) {
  if (const auto obstacle = environment.obstacle(false)) return *obstacle;
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  const KernelBtf kernel("/sys/kernel/btf", {});
  std::vector<Form> forms{options.form};
  if (options.form == Form::automatic) forms = {Form::function, Form::none};
  if (options.form == Form::any) forms = {Form::function, Form::raw};
  std::optional<Failure> last;
  for (const Form form : forms) {
    auto impl = std::make_unique<Impl>();
    if (form == Form::none)
      impl->sources.push_back(
          {"system calls", "", false,
           last ? "this kernel takes no programs on functions (" + last->code.message() + ")"
                : "not asked for"});
    Result<void> done = impl->load(options, form, kernel);
    if (done) done = impl->attach_all(form);
    if (done) return std::unique_ptr<IoLedger>(new IoLedger(std::move(impl)));
    last = done.error();
  }
  return *last;
}

Result<void> IoLedger::watch(std::uint32_t pid) {
  const std::uint8_t one = 1;
  if (bpf_map_update_elem(bpf_map__fd(impl_->skeleton->maps.watched_pids), &pid, &one, BPF_ANY) != 0)
    return system_failure(errno, "cannot follow the storage requests of process " + std::to_string(pid),
                          "watch fewer processes");
  return {};
}

void IoLedger::unwatch(std::uint32_t pid) {
  bpf_map_delete_elem(bpf_map__fd(impl_->skeleton->maps.watched_pids), &pid);
}

const std::vector<IoLedgerSource>& IoLedger::sources() const {
  return impl_->sources;
}

IoLedgerLosses IoLedger::losses() const {
  IoLedgerLosses out;
  const int fd = bpf_map__fd(impl_->skeleton->maps.io_ledger_stats);
  std::vector<std::uint64_t> values(static_cast<std::size_t>(std::max(libbpf_num_possible_cpus(), 1)));
  for (std::uint32_t stat = 0; stat < IO_LEDGER_STATS; ++stat) {
    if (bpf_map_lookup_elem(fd, &stat, values.data()) != 0) continue;
    for (const std::uint64_t value : values) out.counters[stat] += value;
  }
  return out;
}

std::vector<io_ledger_slot> IoLedger::under_way() const {
  return taken<io_ledger_slot>(impl_->mapped);
}

std::vector<io_ledger_block_slot> IoLedger::block_under_way() const {
  return taken<io_ledger_block_slot>(impl_->block_mapped);
}

Result<void> IoLedger::count_file(std::uint32_t pid, std::int32_t fd, const io_ledger_inode& inode,
                                  std::uint32_t row) {
  if (impl_->rows <= row) return system_failure(ENOSPC, "no row is left to count requests in");
  const std::uint64_t key = static_cast<std::uint64_t>(pid) << 32 | static_cast<std::uint32_t>(fd);
  if (fd >= 0 && bpf_map_update_elem(bpf_map__fd(impl_->skeleton->maps.file_rows), &key, &row, BPF_ANY) != 0)
    return system_failure(errno, "cannot count the requests to a descriptor");
  if (inode.ino != 0 &&
      bpf_map_update_elem(bpf_map__fd(impl_->skeleton->maps.inode_rows), &inode, &row, BPF_ANY) != 0)
    return system_failure(errno, "cannot count the requests to a file");
  return {};
}

void IoLedger::forget_file(std::uint32_t pid, std::int32_t fd) {
  const std::uint64_t key = static_cast<std::uint64_t>(pid) << 32 | static_cast<std::uint32_t>(fd);
  bpf_map_delete_elem(bpf_map__fd(impl_->skeleton->maps.file_rows), &key);
}

Result<void> IoLedger::count_disk(std::uint32_t dev, std::uint32_t row) {
  if (impl_->rows <= row) return system_failure(ENOSPC, "no row is left to count requests in");
  if (bpf_map_update_elem(bpf_map__fd(impl_->skeleton->maps.disk_rows), &dev, &row, BPF_ANY) != 0)
    return system_failure(errno, "cannot count the requests to a disk");
  return {};
}

std::array<io_ledger_cell, IO_LEDGER_COLUMNS> IoLedger::row(std::uint32_t row) const {
  std::array<io_ledger_cell, IO_LEDGER_COLUMNS> out{};
  const int fd = bpf_map__fd(impl_->skeleton->maps.cells);
  std::vector<io_ledger_cell> cpus(static_cast<std::size_t>(std::max(libbpf_num_possible_cpus(), 1)));
  for (std::uint32_t column = 0; column < IO_LEDGER_COLUMNS; ++column) {
    const std::uint32_t index = row * IO_LEDGER_COLUMNS + column;
    if (bpf_map_lookup_elem(fd, &index, cpus.data()) != 0) continue;
    io_ledger_cell& sum = out[column];
    for (const io_ledger_cell& cpu : cpus) {
      sum.count += cpu.count;
      sum.errors += cpu.errors;
      sum.bytes += cpu.bytes;
      sum.total_ns += cpu.total_ns;
      sum.max_ns = std::max(sum.max_ns, cpu.max_ns);
      for (unsigned i = 0; i < IO_LEDGER_BUCKETS; ++i) sum.log2[i] += cpu.log2[i];
    }
  }
  return out;
}

int IoLedger::ring_fd() const {
  return bpf_map__fd(impl_->skeleton->maps.io_ledger_ring);
}

}  // namespace vmwhy::bpf
