// SPDX-License-Identifier: BSD-2-Clause
// Raw events and failures on their way through the ring buffer.

#include <gmock/gmock.h>

#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <thread>

#include "bpf/load/ring.hpp"
#include "tests/bpf/fixture.hpp"

namespace vmwhy::test {
namespace {

using bpf::Isa;
constexpr std::size_t kRunAt = 2048;

class KvmExitsRing : public KvmExitsProbe {
 protected:
  void load_raw(std::size_t ring_bytes) {
    bpf::KvmExitsOptions options;
    options.raw_events = true;
    options.ring_bytes = ring_bytes;
    load("vmx_6_1", Isa::vmx, options);
    auto reader = bpf::RingReader::create(probe_->ring_fd(), [this](const void* data, std::size_t bytes) {
      kvm_exits_batch batch{};
      ASSERT_LE(bytes, sizeof(batch));
      std::memcpy(&batch, data, bytes);
      ASSERT_EQ(bytes, KVM_EXITS_BATCH_HEADER + batch.count * sizeof(kvm_exits_event));
      batches_.push_back(batch);
    });
    ASSERT_TRUE(reader) << to_string(reader.error());
    reader_ = std::move(*reader);
  }
  void exit_and_entry(std::uint32_t reason) {
    memory_->as<vmx_6_1::vcpu_vmx>().exit_reason.full = reason;
    exit();
    entry();
  }
  /// What has come, and what waits for its batch to be full.
  void take_all() {
    reader_->drain();
    for (const kvm_exits_batch& rest : probe_->leftovers()) batches_.push_back(rest);
  }
  std::uint64_t events() const {
    std::uint64_t sum = 0;
    for (const kvm_exits_batch& batch : batches_) sum += batch.count;
    return sum;
  }

  std::vector<kvm_exits_batch> batches_;
  std::unique_ptr<bpf::RingReader> reader_;
};

TEST_F(KvmExitsRing, CarriesEveryEventOnceAndInOrder) {
  load_raw(1u << 20);
  constexpr std::uint32_t kEvents = 211;
  for (std::uint32_t i = 0; i < kEvents; ++i) exit_and_entry(i % 60);
  take_all();
  ASSERT_EQ(events(), kEvents);
  std::uint64_t before = 0;
  std::uint32_t at = 0;
  for (const kvm_exits_batch& batch : batches_) {
    EXPECT_EQ(batch.tid, static_cast<std::uint32_t>(::gettid()));
    for (std::uint32_t i = 0; i < batch.count; ++i, ++at) {
      EXPECT_EQ(batch.events[i].code, at % 60);
      EXPECT_GE(batch.events[i].time_ns, before);
      before = batch.events[i].time_ns;
    }
  }
}

TEST_F(KvmExitsRing, CarriesAddressAndTripToQemuOfAnExit) {
  load_raw(1u << 20);
  memory_->as<vmx_6_1::vcpu_vmx>().exit_reason.full = 30;
  exit();
  pio(true, 0x501);
  userspace_exit(2);
  busy_wait(1'000'000);
  fpu(1);
  entry();
  take_all();  // A batch that is old is sent: where this test lost its CPU for long.
  ASSERT_EQ(batches_.size(), 1u);
  ASSERT_EQ(batches_[0].count, 1u);
  const kvm_exits_event& event = batches_[0].events[0];
  EXPECT_EQ(event.code, 30u);
  EXPECT_EQ(event.address, 0x501u);
  EXPECT_EQ(event.user_code, 2);
  EXPECT_GE(event.qemu_ns, 1'000'000u);
  EXPECT_GE(event.duration_ns, event.qemu_ns);
}

TEST_F(KvmExitsRing, CountsWhatAFullRingCouldNotTake) {
  load_raw(4096);
  constexpr std::uint32_t kEvents = 64 * 20;
  for (std::uint32_t i = 0; i < kEvents; ++i) exit_and_entry(10);
  take_all();
  EXPECT_GT(lost(KVM_EXITS_STAT_RING_FULL), 0u);
  EXPECT_EQ(events() + lost(KVM_EXITS_STAT_RING_FULL), kEvents);
  EXPECT_EQ(count(KVM_EXITS_KIND_KVM, 10), kEvents) << "aggregates lose nothing";
}

// As fast as the machine can, with nobody reading: nothing waits, and every event is either there or counted.
TEST_F(KvmExitsRing, NeverMakesAnyVcpuWaitForAFullRing) {
  load_raw(4096);
  constexpr std::uint64_t kThreads = 4, kEvents = 5'000;
  memory_->as<vmx_6_1::vcpu_vmx>().exit_reason.full = 10;
  std::atomic<int> failed = 0;
  std::vector<std::thread> vcpus;
  for (std::uint64_t i = 0; i < kThreads; ++i)
    vcpus.emplace_back([&] {
      for (std::uint64_t n = 0; n < kEvents; ++n) {
        failed += probe_->test_run("raw_kvm_exit", {memory_->address(), 1}) != 0;
        failed += probe_->test_run("raw_kvm_entry", {memory_->address(), 0}) != 0;
      }
    });
  for (std::thread& vcpu : vcpus) vcpu.join();
  EXPECT_EQ(failed, 0);
  take_all();
  EXPECT_GT(lost(KVM_EXITS_STAT_RING_FULL), 0u);
  EXPECT_EQ(events() + lost(KVM_EXITS_STAT_RING_FULL), kThreads * kEvents);
  std::uint64_t counted = 0;
  probe_->visit([&](const kvm_exits_vcpu& row) { counted += row.hits[KVM_EXITS_PROBE_EXIT]; });
  EXPECT_EQ(counted, kThreads * kEvents) << "aggregates lose nothing";
}

TEST_F(KvmExitsRing, TellsAnInternalErrorAtOnceWithItsSuberror) {
  load_raw(1u << 20);
  auto& vcpu = memory_->as<vmx_6_1::vcpu_vmx>();
  vcpu.vcpu.vcpu_id = 3;
  vcpu.vcpu.run = reinterpret_cast<vmx_6_1::kvm_run*>(memory_->address(kRunAt));
  memory_->as<vmx_6_1::kvm_run>(kRunAt).internal.suberror = 3;
  exit_and_entry(48);
  exit();
  userspace_exit(17);
  reader_->drain();
  ASSERT_EQ(batches_.size(), 1u);
  EXPECT_EQ(batches_[0].message, static_cast<std::uint32_t>(KVM_EXITS_MESSAGE_FAILURE));
  EXPECT_EQ(batches_[0].vcpu_id, 3);
  EXPECT_EQ(batches_[0].events[0].address, 3u);
  EXPECT_EQ(batches_[0].events[0].code, 48u);
  EXPECT_EQ(batches_[0].events[0].user_code, 17);
}

TEST_F(KvmExitsRing, TellsAFailedEntryWithTheHardwaresReason) {
  load_raw(1u << 20);
  auto& vcpu = memory_->as<vmx_6_1::vcpu_vmx>();
  vcpu.vcpu.run = reinterpret_cast<vmx_6_1::kvm_run*>(memory_->address(kRunAt));
  memory_->as<vmx_6_1::kvm_run>(kRunAt).fail_entry.hardware_entry_failure_reason = 0x80000021;
  entry();
  userspace_exit(9);
  reader_->drain();
  ASSERT_EQ(batches_.size(), 1u);
  EXPECT_EQ(batches_[0].events[0].address, 0x80000021u);
}

TEST_F(KvmExitsRing, WakesTheIoContext) {
  load_raw(1u << 20);
  boost::asio::io_context io;
  reader_->start(io);
  for (int i = 0; i < 64; ++i) exit_and_entry(10);
  boost::asio::steady_timer deadline(io, std::chrono::seconds(30));
  deadline.async_wait([](boost::system::error_code) {});
  while (batches_.empty() && io.run_one() != 0 && deadline.expiry() > std::chrono::steady_clock::now()) {
  }
  EXPECT_EQ(events(), 64u);
  reader_->stop();
}

}  // namespace
}  // namespace vmwhy::test
