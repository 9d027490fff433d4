// SPDX-License-Identifier: BSD-2-Clause
#include "storage/ledger.hpp"

#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "clock/clock.hpp"
#include "host/process.hpp"
#include "trace/record.hpp"

namespace vmwhy::storage {
namespace {

std::uint64_t user_dev(std::uint32_t kernel_dev) {
  return makedev(kernel_dev >> 20, kernel_dev & 0xfffff);
}

/// By the descriptor's link: asks no file system.
std::string path_of(std::uint32_t pid, std::int32_t fd) {
  if (fd < 0) return {};
  char path[4096];
  const std::string link = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd);
  const ssize_t length = ::readlink(link.c_str(), path, sizeof path);
  return length > 0 ? std::string(path, static_cast<std::size_t>(length)) : std::string();
}

host::SensorReport report_of(const bpf::IoLedger& probes) {
  host::SensorReport out{"bpf", trace::SensorState::on, 0, "", ""};
  for (const bpf::IoLedgerSource& source : probes.sources()) {
    if (!out.detail.empty()) out.detail += "; ";
    out.detail += source.name + (source.attached ? " (" + source.form + ")" : " not seen: " + source.error);
    if (source.attached) continue;
    out.state = trace::SensorState::partial;
    if (!out.remedy.empty()) continue;
    out.remedy =
        source.name == "system calls"
            ? "--syscall-probes (it slows down every system call of this host a little), or a kernel "
              "that takes programs on functions"
            : "Linux 5.19 or later with BTF of the block layer and io_uring";
  }
  out.detail = "storage requests of QEMU that fail, are short, slow or hang: " + out.detail;
  return out;
}

}  // namespace

host::SensorReport Ledger::switched_off() {
  return {"bpf", trace::SensorState::off, 0, "kernel probes are switched off", "leave out --no-bpf"};
}

Ledger::Opened Ledger::open(const LedgerOptions& wanted) {
  host::SensorReport off{"bpf", trace::SensorState::off, 0, "", ""};
  if (!host::in_first_pid_namespace()) {
    off.error = ENOTSUP;
    off.detail = "process ids of this PID namespace are not the kernel's";
    off.remedy = "run on the host, outside of the container";
    return {nullptr, off};
  }
  bpf::IoLedgerOptions options;
  if (wanted.syscall_probes) options.form = bpf::IoLedgerOptions::Form::any;
  options.rows = wanted.rows;
  options.slow_ns = wanted.slow_ns;
  auto opened = bpf::IoLedger::open(bpf::look_around(), options);
  if (!opened) {
    bpf::Failure failure = opened.error();
    off.error = failure.code.value();
    off.remedy = std::exchange(failure.remedy, {});
    // What is missing is said by the sentence; an errno beside it tells nothing.
    off.detail = off.remedy.empty() ? to_string(failure) : failure.context;
    return {nullptr, off};
  }
  host::SensorReport sensor = report_of(**opened);
  return {std::unique_ptr<Ledger>(new Ledger(std::move(*opened), wanted.hang_ns)), std::move(sensor)};
}

void Ledger::start(boost::asio::io_context& io, record::Recorder& recorder) {
  recorder_ = &recorder;
  auto reader = bpf::RingReader::create(probes_->ring_fd(), [this](const void* data, std::size_t bytes) {
    io_ledger_event event{};
    if (bytes != sizeof event) return;
    std::memcpy(&event, data, sizeof event);
    take(event);
  });
  if (!reader) return;
  reader_ = std::move(*reader);
  reader_->start(io);
}

void Ledger::watch(std::uint32_t pid, std::uint32_t vm) {
  if (probes_->watch(pid)) {
    vm_of_[pid] = vm;
    return;
  }
  trace::Loss loss{};
  loss.first_ns = loss.last_ns = clock::now_ns();
  recorder_->add(trace::make_record(loss.first_ns, vm, loss, "bpf: too many processes"));
}

void Ledger::unwatch(std::uint32_t pid) {
  if (vm_of_.erase(pid) != 0) probes_->unwatch(pid);
}

bool Ledger::sees_calls() const {
  return probes_->sources().front().attached;
}

void Ledger::drain() {
  if (reader_) reader_->drain();
}

void Ledger::take(const io_ledger_event& event) {
  if (event.what == IO_LEDGER_BLOCK) return record_block(event);
  const auto vm = vm_of_.find(event.tgid);
  if (vm == vm_of_.end()) return;
  trace::IoSyscall io{};
  io.duration_ns = event.duration_ns;
  io.offset = event.offset;
  io.length = event.length;
  io.result = event.result;
  io.dev = user_dev(event.dev);
  io.ino = event.ino;
  io.rdev = user_dev(event.rdev);
  io.pid = event.tgid;
  io.tid = event.tid;
  io.fd = event.fd;
  io.what = event.what;
  io.operation = event.op;
  io.mode = event.mode;
  recorder_->add(
      trace::make_record(event.time_ns, vm->second, io,
                         trace::join_text({path_of(event.tgid, event.fd), bpf::call_name(event.call)})));
}

void Ledger::record_block(const io_ledger_event& event) {
  const bpf::BlockStatus status = bpf::block_status(event.result);
  trace::IoBlock io{};
  io.sector = event.offset;
  io.length = event.length;
  io.dev = user_dev(event.dev);
  io.error = static_cast<std::uint32_t>(status.error);
  io.operation = event.op;
  io.status = event.result > 0 ? static_cast<std::uint32_t>(event.result) : 0;
  io.flags = event.mode;
  const std::string disk(event.disk, strnlen(event.disk, sizeof event.disk));
  recorder_->add(trace::make_record(event.time_ns, 0, io, trace::join_text({disk, status.name})));
}

std::optional<Ledger::UnderWay> Ledger::oldest(std::uint32_t pid) const {
  std::optional<UnderWay> out;
  for (const io_ledger_slot& slot : probes_->under_way()) {
    if (slot.start_ns == 0 || static_cast<std::uint32_t>(slot.owner >> 32) != pid) continue;
    if (!out || slot.start_ns < out->began_ns) out = UnderWay{slot.start_ns, path_of(pid, slot.fd)};
  }
  return out;
}

void Ledger::look() {
  const std::uint64_t now = clock::now_ns();
  record_lost(now);
  record_under_way(now);
  looked_ns_ = now;
}

void Ledger::record_lost(std::uint64_t now) {
  const std::uint64_t lost = probes_->losses().lost();
  if (lost == lost_) return;
  trace::Loss loss{};
  loss.lost = lost - std::exchange(lost_, lost);
  loss.first_ns = looked_ns_ != 0 ? looked_ns_ : now;
  loss.last_ns = now;
  recorder_->add(trace::make_record(now, 0, loss, "bpf: ring_full"));
}

std::vector<trace::OwnedRecord> Ledger::hanging(std::uint64_t now) const {
  std::vector<trace::OwnedRecord> out;
  for (const io_ledger_slot& slot : probes_->under_way()) {
    const auto pid = static_cast<std::uint32_t>(slot.owner >> 32);
    const auto vm = vm_of_.find(pid);
    if (vm == vm_of_.end() || slot.start_ns + hang_ns_ > now) continue;
    trace::IoSyscall io{};
    io.duration_ns = now - slot.start_ns;
    io.offset = slot.offset;
    io.length = slot.length;
    io.pid = pid;
    io.tid = static_cast<std::uint32_t>(slot.owner);
    io.fd = slot.fd;
    io.what = static_cast<std::uint32_t>(trace::IoWhat::under_way);
    io.operation = slot.op;
    io.mode = slot.mode;
    out.push_back(trace::make_record(now, vm->second, io,
                                     trace::join_text({path_of(pid, slot.fd), bpf::call_name(slot.call)})));
  }
  return out;
}

void Ledger::record_under_way(std::uint64_t now) {
  decltype(told_) still;
  for (const trace::OwnedRecord& record : hanging(now)) {
    const auto io = record.view().as<trace::IoSyscall>();
    const std::pair key{static_cast<std::uint64_t>(io.pid) << 32 | io.tid, now - io.duration_ns};
    still.insert(key);
    if (!told_.contains(key)) recorder_->add(record);
  }
  told_ = std::move(still);
}

}  // namespace vmwhy::storage
