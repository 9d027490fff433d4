// SPDX-License-Identifier: BSD-2-Clause
#include "qemu/calls.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "clock/clock.hpp"
#include "host/process.hpp"
#include "qemu/binary.hpp"
#include "trace/record.hpp"
#include "trace/tap_records.hpp"

namespace vmwhy::qemu {
namespace {

Failure ours(const bpf::Failure& failure) {
  return {failure.code, failure.context, failure.remedy};
}

}  // namespace

host::SensorReport Calls::switched_off() {
  return {"qemu", trace::SensorState::off, 0,
          "switched off by --no-bpf: QEMU's own functions are not followed", ""};
}

Calls::Opened Calls::open() {
  const auto off = [](int error, const std::string& why, const std::string& remedy) {
    return Opened{
        nullptr,
        {"qemu", trace::SensorState::off, error, "QEMU's own functions are not followed: " + why, remedy}};
  };
  if (!host::in_first_pid_namespace())
    return off(ENOTSUP, "process ids of this PID namespace are not the kernel's",
               "run on the host, outside of the container, or in a pod with hostPID");
  auto probe = bpf::QemuCalls::open(bpf::look_around());
  if (!probe) return off(probe.error().code.value(), probe.error().context, probe.error().remedy);
  return {std::unique_ptr<Calls>(new Calls(std::move(*probe))),
          {"qemu", trace::SensorState::on, 0, "QEMU's own functions are followed where they are found", ""}};
}

Calls::Calls(std::unique_ptr<bpf::QemuCalls> probe) : probe_(std::move(probe)) {}
Calls::~Calls() = default;

Result<void> Calls::start(boost::asio::io_context& io, record::Recorder& recorder) {
  io_ = &io;
  recorder_ = &recorder;
  auto reader = bpf::RingReader::create(probe_->ring_fd(),
                                        [this](const void* data, std::size_t bytes) { take(data, bytes); });
  if (!reader) return ours(reader.error());
  reader_ = std::move(*reader);
  reader_->start(io);
  return {};
}

void Calls::tell(const host::SensorReport& report, std::uint32_t vm) {
  recorder_->add(host::sensor_record(clock::now_ns(), report, vm));
}

Result<Calls::Followed*> Calls::binary_of(std::uint32_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/exe";
  struct stat file {};
  if (::stat(path.c_str(), &file) != 0)
    return system_failure(errno, "cannot find what process " + std::to_string(pid) + " runs");
  Followed& followed = binaries_[{file.st_dev, file.st_ino}];
  if (!followed.binary) {
    const auto on_sensor = [this, &followed](const host::SensorReport& report) {
      followed.said = report;
      for (const auto& [watched, what] : watched_)
        if (what.of == &followed) tell(report, what.vm);
    };
    auto opened = Binary::open(*io_, probe_->program_fd(), path, on_sensor);
    if (!opened) return opened.error();
    followed.binary = std::move(*opened);
  }
  return &followed;
}

Result<void> Calls::watch(std::uint32_t pid, std::uint32_t vm) {
  auto followed = binary_of(pid);
  if (!followed) return followed.error();
  if (auto done = probe_->watch(pid); !done) return ours(done.error());
  watched_[pid] = {vm, *followed};
  if ((*followed)->said) tell(*(*followed)->said, vm);
  return {};
}

void Calls::unwatch(std::uint32_t pid) {
  if (watched_.erase(pid) != 0) probe_->unwatch(pid);
}

bool Calls::attaching() const {
  return std::any_of(binaries_.begin(), binaries_.end(),
                     [](const auto& entry) { return entry.second.binary != nullptr && !entry.second.said; });
}

void Calls::drain() {
  reader_->drain();
}

void Calls::take(const void* data, std::size_t bytes) {
  // A ring that was full has what came before the loss: it must be known before that is judged.
  note_losses();
  qemu_calls_event event{};
  if (bytes < sizeof(event)) return;
  std::memcpy(&event, data, sizeof(event));
  if (event.stack_bytes > bytes - sizeof(event)) return;
  const auto found = watched_.find(event.tgid);
  Call call;
  if (found == watched_.end() ||
      !found->second.of->binary->describe(event, static_cast<const std::byte*>(data) + sizeof(event), call))
    return;
  trace::QemuCall out{};
  std::copy(call.arguments.begin(), call.arguments.end(), std::begin(out.arguments));
  out.pid = event.tgid;
  out.tid = event.tid;
  recorder_->add(
      trace::make_record(event.time_ns, found->second.vm, out,
                         trace::join_text({call.function, call.value, call.strings, call.callers})));
}

void Calls::note_losses() {
  const std::uint64_t now = clock::now_ns();
  if (const std::uint64_t lost = probe_->losses().lost; lost != lost_) {
    trace::Loss loss{};
    loss.lost = lost - std::exchange(lost_, lost);
    loss.first_ns = looked_ns_ != 0 ? looked_ns_ : now;
    loss.last_ns = now;
    recorder_->add(trace::make_record(now, 0, loss, "qemu"));
  }
  looked_ns_ = now;
}

}  // namespace vmwhy::qemu
