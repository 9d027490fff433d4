// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What the probe's rows mean: VMs, vCPUs and their exits in a window of time. Pure: no I/O, no clocks.

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bpf/load/kvm_exits.hpp"
#include "kvm/reasons.hpp"
#include "tools/kvm-exits/devices.hpp"
#include "tools/kvm-exits/options.hpp"

namespace vmwhy::kvm_exits {

struct Exit {
  kvm_exits_kind kind = KVM_EXITS_KIND_KVM;
  std::uint64_t code = 0;  ///< As in kvm_exits_cell.
  bool write = false;      ///< pio, mmio.
  bool halt = false;       ///< The guest asked to sleep: this time is not a cost.
  std::string reason;      ///< Name of the reason; "0x3f8 write" of an address.
  std::string device;      ///< pio, mmio: who answers there; empty: not known.
  bool from_qemu = false;  ///< `device` is QEMU's word, and not what a PC has there by convention.
  std::uint64_t count = 0, timed = 0, total_ns = 0, max_ns = 0, qemu_ns = 0;
  std::array<std::uint64_t, KVM_EXITS_BUCKETS> log2_ns{};

  /// The duration below which `share` (0 to 1) of the timed exits lie: interpolated in its bucket, never
  /// above max_ns. 0 where nothing was timed.
  std::uint64_t percentile_ns(double share) const;
};

struct Vcpu {
  std::int32_t id = -1;  ///< KVM's; -1: not known.
  std::uint32_t tid = 0;
  std::vector<Exit> exits;
};

struct Vm {
  std::uint32_t pid = 0;
  std::string name;
  std::vector<Vcpu> vcpus;
};

struct Report {
  kvm::Isa isa = kvm::Isa::unknown;
  std::uint64_t window_ns = 0;
  std::vector<Vm> vms;
  std::vector<bpf::ProbeStatus> probes;
  bpf::KvmExitsLosses losses;
  std::vector<std::string> notes;  ///< What a reader must know: what could not be seen, and why.
};

/// What is known of a process from elsewhere.
struct KnownVm {
  std::string name;
  std::map<std::uint32_t, std::int32_t> vcpu_by_tid;
  std::shared_ptr<const DeviceMap> devices;  ///< Null: QEMU was not asked, or did not answer.
};

/// The exits between two states of the rows (`before` may be empty: since the beginning).
std::vector<Vm> make_vms(const std::vector<kvm_exits_vcpu>& now, const std::vector<kvm_exits_vcpu>& before,
                         const std::map<std::uint32_t, KnownVm>& known, kvm::Isa isa, const Options& options);

/// One list for a whole VM: the exits of its vCPUs added up, ordered by `key`, the greatest first.
std::vector<Exit> add_up(const Vm& vm, kvm_exits_kind kind, Key key);
void order(std::vector<Exit>& exits, Key key);

/// Sentences on what the hits of the probes say: a tracepoint that never fired while others did.
std::vector<std::string> silence_notes(const std::vector<bpf::ProbeStatus>& probes, kvm::Isa isa);

std::string_view to_string(kvm_exits_kind kind);
/// What a PC has at a port or address by long convention ("COM1", "local APIC"); empty: nothing known.
std::string_view conventional_device(kvm_exits_kind kind, std::uint64_t address);

}  // namespace vmwhy::kvm_exits
