// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-exits/model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace vmwhy::kvm_exits {
namespace {

std::string reason_of(kvm::Isa isa, const Exit& exit) {
  switch (exit.kind) {
    case KVM_EXITS_KIND_KVM:
      return kvm::exit_reason_name(isa, static_cast<std::uint32_t>(exit.code));
    case KVM_EXITS_KIND_USERSPACE:
      return kvm::userspace_reason_name(static_cast<std::int32_t>(exit.code));
    default:
      return fmt::format("{:#x} {}", exit.code, exit.write ? "write" : "read");
  }
}

bool halt_of(kvm::Isa isa, const Exit& exit) {
  if (exit.kind == KVM_EXITS_KIND_KVM) return kvm::is_halt(isa, static_cast<std::uint32_t>(exit.code));
  return exit.kind == KVM_EXITS_KIND_USERSPACE &&
         kvm::is_userspace_halt(static_cast<std::int32_t>(exit.code));
}

void name_device(Exit& exit, const KnownVm* known) {
  if (exit.kind != KVM_EXITS_KIND_PIO && exit.kind != KVM_EXITS_KIND_MMIO) return;
  if (known && known->devices) exit.device = known->devices->find(exit.kind, exit.code);
  exit.from_qemu = !exit.device.empty();
  if (!exit.from_qemu) exit.device = conventional_device(exit.kind, exit.code);
}

// Cells are only ever appended to a row, so the same index is the same (kind, code) in both states.
Exit difference(const kvm_exits_cell& now, const kvm_exits_cell* before, kvm::Isa isa) {
  Exit exit;
  exit.kind = static_cast<kvm_exits_kind>(now.kind);
  exit.code = now.code;
  exit.write = now.detail != 0;
  exit.halt = halt_of(isa, exit);
  exit.reason = reason_of(isa, exit);
  exit.count = now.count - (before ? before->count : 0);
  exit.timed = now.timed - (before ? before->timed : 0);
  exit.total_ns = now.total_ns - (before ? before->total_ns : 0);
  exit.qemu_ns = now.qemu_ns - (before ? before->qemu_ns : 0);
  int top = -1;
  for (int i = 0; i < KVM_EXITS_BUCKETS; ++i) {
    // The difference of 32-bit counters is right even when one has wrapped.
    exit.log2_ns[static_cast<std::size_t>(i)] = now.log2_ns[i] - (before ? before->log2_ns[i] : 0);
    if (exit.log2_ns[static_cast<std::size_t>(i)]) top = i;
  }
  exit.max_ns = now.max_ns;
  // The greatest of all time may lie before the window: then the window's is known to its bucket only.
  if (before && top >= 0 && now.max_ns == before->max_ns)
    exit.max_ns = std::min<std::uint64_t>(now.max_ns, std::uint64_t{2} << top);
  if (top < 0) exit.max_ns = 0;
  return exit;
}

std::int32_t vcpu_id(const kvm_exits_vcpu& row, const KnownVm* known) {
  if (row.vcpu_id >= 0 || !known) return row.vcpu_id;
  const auto found = known->vcpu_by_tid.find(static_cast<std::uint32_t>(row.pid_tgid));
  return found == known->vcpu_by_tid.end() ? -1 : found->second;
}

}  // namespace

std::uint64_t Exit::percentile_ns(double share) const {
  if (timed == 0) return 0;
  const double wanted = share * static_cast<double>(timed);
  double below = 0;
  for (std::size_t i = 0; i < log2_ns.size(); ++i) {
    const auto here = static_cast<double>(log2_ns[i]);
    if (here > 0 && below + here >= wanted) {
      const double begin = i == 0 ? 0 : static_cast<double>(std::uint64_t{1} << i);
      const double end = static_cast<double>(std::uint64_t{2} << i);
      const double at = begin + (end - begin) * std::max(0.0, wanted - below) / here;
      return std::min(max_ns, static_cast<std::uint64_t>(at));
    }
    below += here;
  }
  return max_ns;
}

std::vector<Vm> make_vms(const std::vector<kvm_exits_vcpu>& now, const std::vector<kvm_exits_vcpu>& before,
                         const std::map<std::uint32_t, KnownVm>& known, kvm::Isa isa,
                         const Options& options) {
  std::map<std::uint32_t, Vm> vms;
  for (std::size_t i = 0; i < now.size(); ++i) {
    const kvm_exits_vcpu& row = now[i];
    const auto pid = static_cast<std::uint32_t>(row.pid_tgid >> 32);
    if (row.pid_tgid == 0) continue;
    const auto found = known.find(pid);
    const KnownVm* vm_known = found == known.end() ? nullptr : &found->second;
    Vcpu vcpu{vcpu_id(row, vm_known), static_cast<std::uint32_t>(row.pid_tgid), {}};
    if (!options.vcpus.empty() &&
        std::find(options.vcpus.begin(), options.vcpus.end(), vcpu.id) == options.vcpus.end())
      continue;
    const kvm_exits_vcpu* old = i < before.size() ? &before[i] : nullptr;
    for (std::uint32_t c = 0; c < std::min<std::uint32_t>(row.cells_used, KVM_EXITS_CELLS); ++c) {
      Exit exit = difference(row.cells[c], old && c < old->cells_used ? &old->cells[c] : nullptr, isa);
      if (exit.count == 0 && exit.timed == 0) continue;
      name_device(exit, vm_known);
      vcpu.exits.push_back(std::move(exit));
    }
    order(vcpu.exits, options.key);
    Vm& vm = vms[pid];
    vm.pid = pid;
    if (vm_known) vm.name = vm_known->name;
    vm.vcpus.push_back(std::move(vcpu));
  }
  std::vector<Vm> out;
  for (auto& entry : vms) {
    std::sort(entry.second.vcpus.begin(), entry.second.vcpus.end(),
              [](const Vcpu& a, const Vcpu& b) { return std::tie(a.id, a.tid) < std::tie(b.id, b.tid); });
    out.push_back(std::move(entry.second));
  }
  return out;
}

void order(std::vector<Exit>& exits, Key key) {
  const auto value = [key](const Exit& exit) {
    return key == Key::count ? exit.count : key == Key::max ? exit.max_ns : exit.total_ns;
  };
  std::stable_sort(exits.begin(), exits.end(), [&](const Exit& a, const Exit& b) {
    return std::tuple(a.kind, value(b), b.count) < std::tuple(b.kind, value(a), a.count);
  });
}

std::vector<Exit> add_up(const Vm& vm, kvm_exits_kind kind, Key key) {
  std::map<std::pair<std::uint64_t, bool>, Exit> sums;
  for (const Vcpu& vcpu : vm.vcpus) {
    for (const Exit& exit : vcpu.exits) {
      if (exit.kind != kind) continue;
      const auto [at, fresh] = sums.try_emplace({exit.code, exit.write}, exit);
      if (fresh) continue;
      Exit& sum = at->second;
      sum.count += exit.count;
      sum.timed += exit.timed;
      sum.total_ns += exit.total_ns;
      sum.qemu_ns += exit.qemu_ns;
      sum.max_ns = std::max(sum.max_ns, exit.max_ns);
      for (std::size_t i = 0; i < sum.log2_ns.size(); ++i) sum.log2_ns[i] += exit.log2_ns[i];
    }
  }
  std::vector<Exit> out;
  out.reserve(sums.size());
  for (auto& entry : sums) out.push_back(std::move(entry.second));
  order(out, key);
  return out;
}

std::vector<std::string> silence_notes(const std::vector<bpf::ProbeStatus>& probes, kvm::Isa isa) {
  std::vector<std::string> notes;
  std::uint64_t all = 0, exit_hits = 0;
  bool exit_attached = false;
  for (const bpf::ProbeStatus& probe : probes) {
    all += probe.hits;
    if (probe.name == "kvm_exit") {
      exit_attached = probe.attached;
      exit_hits = probe.hits;
    }
    if (!probe.attached)
      notes.push_back(fmt::format("{} is not watched: {}", probe.name, probe.error));
    else if (probe.form == "classic")
      notes.emplace_back("kvm_exit is watched by its classic tracepoint: each exit costs more");
  }
  if (all == 0)
    notes.push_back("nothing fired: no vCPU of these VMs left its guest, or they do not run under KVM");
  else if (exit_attached && exit_hits == 0)
    notes.push_back(fmt::format(
        "kvm_exit is attached and did not fire while other KVM events did{}: exits that stay in the kernel "
        "cannot be seen here, exits to QEMU can",
        isa == kvm::Isa::pvm ? " (PVM)" : ""));
  return notes;
}

std::string_view to_string(kvm_exits_kind kind) {
  switch (kind) {
    case KVM_EXITS_KIND_KVM:
      return "kvm";
    case KVM_EXITS_KIND_USERSPACE:
      return "userspace";
    case KVM_EXITS_KIND_PIO:
      return "pio";
    default:
      return "mmio";
  }
}

std::string_view conventional_device(kvm_exits_kind kind, std::uint64_t address) {
  struct Range {
    std::uint64_t first, last;
    std::string_view device;
  };
  static constexpr Range kPorts[] = {
      {0x20, 0x21, "PIC"},         {0x40, 0x43, "PIT"},        {0x60, 0x60, "keyboard"},
      {0x61, 0x61, "PIT gate"},    {0x64, 0x64, "keyboard"},   {0x70, 0x71, "RTC"},
      {0x80, 0x80, "POST code"},   {0x92, 0x92, "port 92"},    {0xa0, 0xa1, "PIC"},
      {0xb2, 0xb3, "SMI"},         {0x1f0, 0x1f7, "IDE"},      {0x170, 0x177, "IDE"},
      {0x2f8, 0x2ff, "COM2"},      {0x3b0, 0x3df, "VGA"},      {0x3f0, 0x3f5, "floppy"},
      {0x3f8, 0x3ff, "COM1"},      {0x402, 0x402, "debugcon"}, {0x501, 0x501, "debug exit"},
      {0x505, 0x505, "pvpanic"},   {0x510, 0x51b, "fw_cfg"},   {0x600, 0x63f, "ACPI PM"},
      {0xcf8, 0xcff, "PCI config"}};
  static constexpr Range kMmio[] = {{0xa0000, 0xbffff, "VGA"},
                                    {0xb0000000, 0xbfffffff, "PCI config"},
                                    {0xfec00000, 0xfec00fff, "I/O APIC"},
                                    {0xfed00000, 0xfed003ff, "HPET"},
                                    {0xfed40000, 0xfed44fff, "TPM"},
                                    {0xfee00000, 0xfee00fff, "local APIC"}};
  const auto look = [&](const auto& ranges) -> std::string_view {
    for (const Range& range : ranges)
      if (address >= range.first && address <= range.last) return range.device;
    return {};
  };
  if (kind == KVM_EXITS_KIND_PIO) return look(kPorts);
  if (kind == KVM_EXITS_KIND_MMIO) return look(kMmio);
  return {};
}

}  // namespace vmwhy::kvm_exits
