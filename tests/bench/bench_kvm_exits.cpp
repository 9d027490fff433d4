// SPDX-License-Identifier: BSD-2-Clause
// What kvm-exits costs: BPF run time of one exit (kvm_exit and kvm_entry), by the kernel's own statistics on
// made-up events, and what a million exits a second cost on their way into a trace file, and there.

#include <bpf/bpf.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include "bpf/load/ring.hpp"
#include "core/unique_fd.hpp"
#include "tests/bench/bench.hpp"
#include "tests/bpf/kernel_memory.hpp"
#include "tests/bpf/layouts.hpp"
#include "tests/support/temp_dir.hpp"
#include "tools/kvm-exits/trace_out.hpp"

namespace vmwhy::bench {
namespace {

constexpr int kRounds = 60, kExits = 10'000;

/// BPF run time of `act`, ns: the best of some rounds, since everything that runs beside makes it longer.
/// `between` runs between the rounds.
template <class Act, class Between>
double best_ns(const bpf::KvmExits& probe, Act act, Between between) {
  double best = 1e9;
  for (int i = 0; i < 1000; ++i) act();  // Rows and cells exist, caches are warm.
  for (int round = 0; round < kRounds; ++round) {
    between();
    const auto before = probe.run_time();
    for (int i = 0; i < kExits; ++i) act();
    const auto after = probe.run_time();
    best = std::min(best, static_cast<double>(after.second - before.second) / kExits);
  }
  return best;
}

std::unique_ptr<bpf::KvmExits> load(const char* layout, bpf::Isa isa, bool raw_events,
                                    std::size_t ring_bytes) {
  bpf::KvmExitsOptions options;
  options.form = bpf::KvmExitsOptions::Form::raw;
  options.custom_btf = test::layout_btf(layout);
  options.isa = isa;
  options.exit_arguments = 2;
  options.raw_events = raw_events;
  options.ring_bytes = ring_bytes;
  auto probe = bpf::KvmExits::load(bpf::look_around(), options);
  if (!probe) throw std::runtime_error(to_string(probe.error()));
  return std::move(*probe);
}

/// The form that this kernel gets of itself.
const char* exit_program() {
  static const bool direct = bpf::look_around().word_type != 0;
  return direct ? "raw_kvm_exit_direct" : "raw_kvm_exit";
}

/// A vCPU of AMD that left the guest for port I/O.
void put_vcpu(test::KernelMemory& memory) {
  constexpr std::size_t kVmcbAt = 1024;
  memory.as<svm_6_1::vcpu_svm>().vmcb = reinterpret_cast<svm_6_1::vmcb*>(memory.address(kVmcbAt));
  memory.as<svm_6_1::vmcb>(kVmcbAt).control.exit_code = 0x7b;
}

VMWHY_BENCH(kvm_exits_cost) {
  if (report.needs("bpf")) return;
  const UniqueFd stats(bpf_enable_stats(BPF_STATS_RUN_TIME));
  if (!stats) throw std::runtime_error("BPF run-time statistics cannot be enabled");
  test::KernelMemory memory;
  put_vcpu(memory);
  for (const char* program : {"do_nothing", "read_clock"}) {
    double best = 1e9;
    for (int round = 0; round < kRounds; ++round) {
      const std::uint64_t before = memory.run_yardstick(program, 0);
      best = std::min(best, static_cast<double>(memory.run_yardstick(program, kExits) - before) / kExits);
    }
    report.add(
        {.figure = std::string("yardstick: a program that does ") +
                   (program == std::string_view("do_nothing") ? "nothing" : "nothing but read the clock"),
         .value = best,
         .unit = "ns/run"});
  }
  const auto measure = [&](const char* layout, bpf::Isa isa, bool raw_events, const std::string& what,
                           std::size_t ring_bytes = 1u << 20, bool drained = true) {
    const auto probe = load(layout, isa, raw_events, ring_bytes);
    const auto reader = bpf::RingReader::create(probe->ring_fd(), [](const void*, std::size_t) {});
    if (!reader) throw std::runtime_error(to_string(reader.error()));
    const auto act = [&] {
      probe->test_run(exit_program(), {memory.address(), 1});
      probe->test_run("raw_kvm_entry", {memory.address(), 0});
    };
    const double both = best_ns(*probe, act, [&] {
      if (drained) (*reader)->drain();
    });
    const std::uint64_t lost = probe->losses().counters[KVM_EXITS_STAT_RING_FULL];
    if (drained && lost != 0) throw std::runtime_error("events were lost");
    // Without an exit before it an entry has nothing to add up, so the pair is measured, not each alone.
    report.add(
        {.figure = "BPF run time of an exit's two programs, " + what, .value = both, .unit = "ns/exit"});
    report.add(
        {.figure = "BPF run time of one of them, " + what, .value = both / 2, .unit = "ns/run", .goal = 200});
  };
  measure("svm_6_1", bpf::Isa::svm, false, "AMD");
  measure("svm_6_1", bpf::Isa::svm, true, "AMD, raw events", 8u << 20);
  // A ring's memory is written round and round: what does not stay in a cache is paid for.
  measure("svm_6_1", bpf::Isa::svm, true, "AMD, raw events, -b 64", 64u << 20);
  // What an exit costs a guest whose events nobody reads: nothing waits, each batch is dropped and counted.
  measure("svm_6_1", bpf::Isa::svm, true, "AMD, raw events, ring full", 4096, false);
  memory.as<vmx_6_1::vcpu_vmx>().exit_reason.full = 30;
  measure("vmx_6_1", bpf::Isa::vmx, false, "Intel");
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

// Exits of four vCPUs as a busy guest makes them: a few reasons, durations of a microsecond with a long tail.
std::vector<kvm_exits_batch> synthetic_batches(std::size_t events) {
  std::mt19937_64 random(7);
  std::lognormal_distribution<double> duration(7.2, 0.8);
  const std::uint32_t codes[] = {0x7b, 0x400, 0x7c, 0x60, 0x78, 0x72};
  std::vector<kvm_exits_batch> out;
  std::uint64_t now[4] = {1'000'000'000, 1'000'000'100, 1'000'000'200, 1'000'000'300};
  while (out.size() * KVM_EXITS_BATCH < events) {
    const std::size_t vcpu = out.size() % 4;
    kvm_exits_batch batch{};
    batch.message = KVM_EXITS_MESSAGE_EVENTS;
    batch.count = KVM_EXITS_BATCH;
    batch.tgid = 4242;
    batch.tid = static_cast<std::uint32_t>(4250 + vcpu);
    batch.vcpu_id = static_cast<std::int32_t>(vcpu);
    for (kvm_exits_event& event : batch.events) {
      event.code = codes[random() % std::size(codes)];
      event.duration_ns = static_cast<std::uint64_t>(duration(random));
      const bool to_qemu = event.code == 0x7b;
      event.qemu_ns = to_qemu ? event.duration_ns * 3 / 4 : 0;
      event.address = to_qemu ? 0x3f8 : KVM_EXITS_NO_ADDRESS;
      event.user_code = to_qemu ? 2 : KVM_EXITS_NO_USER;
      event.time_ns = now[vcpu];
      now[vcpu] += event.duration_ns + 500 + random() % 4000;
    }
    out.push_back(batch);
  }
  return out;
}

VMWHY_BENCH(kvm_exits_trace) {
  constexpr std::size_t kEvents = 2'000'000;
  const std::vector<kvm_exits_batch> batches = synthetic_batches(kEvents);
  const test::TempDir folder;
  kvm_exits::Options options;
  options.output = folder / "exits.vmt";
  auto trace = kvm_exits::TraceOut::create(options, {});
  if (!trace) throw std::runtime_error(to_string(trace.error()));
  (*trace)->begin();
  const double cpu = cpu_seconds();
  // A million a second, in portions as a ring buffer's wake-ups bring them.
  const auto began = std::chrono::steady_clock::now();
  constexpr std::size_t kPortion = 64;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    if (i % kPortion == 0)
      std::this_thread::sleep_until(began + std::chrono::microseconds(i * KVM_EXITS_BATCH));
    (*trace)->add(batches[i]);
  }
  kvm_exits::Report total;
  const auto stats = (*trace)->end(total, 0);
  if (!stats) throw std::runtime_error(to_string(stats.error()));
  const auto events = static_cast<double>(batches.size() * KVM_EXITS_BATCH);
  report.add({.figure = "CPU time of a million exits in a second, both threads",
              .value = (cpu_seconds() - cpu) / events * 1e6,
              .unit = "s",
              .goal = 1});
  report.add({.figure = "exits lost at a million a second",
              .value = static_cast<double>(stats->lost),
              .unit = "exits",
              .goal = 0});
  report.add({.figure = "trace file",
              .value = static_cast<double>(stats->bytes) / events,
              .unit = "bytes/exit",
              .goal = 8});
}

// From the probe's programs through the ring into the file, as fast as one thread can make exits happen.
VMWHY_BENCH(kvm_exits_live) {
  if (report.needs("bpf")) return;
  constexpr int kLiveExits = 3'000'000;
  test::KernelMemory memory;
  put_vcpu(memory);
  const auto probe = load("svm_6_1", bpf::Isa::svm, true, 8u << 20);
  const test::TempDir folder;
  kvm_exits::Options options;
  options.output = folder / "live.vmt";
  auto trace = kvm_exits::TraceOut::create(options, {});
  if (!trace) throw std::runtime_error(to_string(trace.error()));
  (*trace)->begin();
  std::uint64_t read = 0;
  const auto take = [&](const kvm_exits_batch& batch) {
    read += batch.count;
    (*trace)->add(batch);
  };
  const auto reader = bpf::RingReader::create(probe->ring_fd(), [&](const void* data, std::size_t) {
    const auto& batch = *static_cast<const kvm_exits_batch*>(data);
    if (batch.message == KVM_EXITS_MESSAGE_EVENTS) take(batch);
  });
  if (!reader) throw std::runtime_error(to_string(reader.error()));
  const auto began = std::chrono::steady_clock::now();
  std::atomic<bool> over = false;
  std::thread guest([&] {
    for (int i = 0; i < kLiveExits; ++i) {
      probe->test_run(exit_program(), {memory.address(), 1});
      probe->test_run("raw_kvm_entry", {memory.address(), 0});
    }
    over = true;
  });
  while (!over) {
    (*reader)->drain();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  guest.join();
  (*reader)->drain();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  const std::uint64_t lost = probe->losses().counters[KVM_EXITS_STAT_RING_FULL];
  probe->detach();
  for (const kvm_exits_batch& batch : probe->leftovers()) take(batch);
  kvm_exits::Report total;
  const auto stats = (*trace)->end(total, lost);
  if (!stats) throw std::runtime_error(to_string(stats.error()));
  if (read + lost != kLiveExits)
    throw std::runtime_error("exits are neither in the file nor counted as lost");
  report.add({.figure = "exits from the probe into the file, made by one thread as fast as it can",
              .value = kLiveExits / took.count(),
              .unit = "exits/s"});
  report.add({.figure = "of these exits lost",
              .value = static_cast<double>(lost + stats->lost),
              .unit = "exits",
              .goal = 0});
}

}  // namespace
}  // namespace vmwhy::bench
