// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-exits/output.hpp"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <ostream>

#include "core/text.hpp"

namespace vmwhy::kvm_exits {
namespace {

constexpr std::size_t kAddresses = 8, kReasonWidth = 31, kLongestDevice = 90;

struct Style {
  bool color;
  std::string bold(const std::string& text) const { return color ? "\x1b[1m" + text + "\x1b[0m" : text; }
};

// "12.3 µs": three digits that count.
std::string short_ns(std::uint64_t ns) {
  const auto value = static_cast<double>(ns);
  if (ns < 1000) return fmt::format("{} ns", ns);
  if (ns < 1'000'000) return fmt::format("{:.1f} us", value / 1e3);
  if (ns < 1'000'000'000) return fmt::format("{:.1f} ms", value / 1e6);
  return fmt::format("{:.2f} s", value / 1e9);
}

double percent(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

void print_rows(std::ostream& out, const std::vector<Exit>& exits, std::uint64_t whole_ns,
                const std::string& head, const Style& style, std::size_t most) {
  if (exits.empty()) return;
  out << style.bold(fmt::format("  {:<31} {:>10} {:>7} {:>7} {:>9} {:>9} {:>9} {:>9}", head, "COUNT", "TIME%",
                                "QEMU%", "TOTAL", "P50", "P99", "MAX"))
      << "\n";
  std::size_t shown = 0;
  for (const Exit& exit : exits) {
    if (shown++ == most) {
      out << fmt::format("  … and {} more\n", exits.size() - most);
      break;
    }
    std::string reason = exit.reason;
    std::string device = exit.device.empty() ? "" : printable(exit.device, kLongestDevice);
    if (!device.empty())
      device = exit.from_qemu ? fmt::format(" [{}]", device) : fmt::format(" ({})", device);
    // A name that would push the columns out of the terminal gets a line of its own.
    const bool apart = reason.size() + device.size() > kReasonWidth;
    if (!apart) reason += device;
    if (exit.halt) reason += " (asleep)";
    out << fmt::format("  {:<31} {:>10}", reason, exit.count);
    if (exit.timed)
      out << fmt::format(" {:>7.2f} {:>7.1f} {:>9} {:>9} {:>9} {:>9}", percent(exit.total_ns, whole_ns),
                         percent(exit.qemu_ns, exit.total_ns), short_ns(exit.total_ns),
                         short_ns(exit.percentile_ns(0.5)), short_ns(exit.percentile_ns(0.99)),
                         short_ns(exit.max_ns));
    out << "\n";
    if (apart) out << "     " << device << "\n";
  }
}

void print_vcpus(std::ostream& out, const Vm& vm, std::uint64_t window_ns, const Style& style) {
  if (vm.vcpus.size() < 2) return;
  out << style.bold(
             fmt::format("  {:<31} {:>10} {:>7} {:>7} {:>7}", "VCPU", "EXITS", "OUT%", "QEMU%", "ASLEEP%"))
      << "\n";
  for (const Vcpu& vcpu : vm.vcpus) {
    std::uint64_t count = 0, ns = 0, qemu_ns = 0, halt_ns = 0;
    for (const Exit& exit : vcpu.exits) {
      if (exit.kind == KVM_EXITS_KIND_KVM) {
        count += exit.count;
        (exit.halt ? halt_ns : ns) += exit.total_ns;
      } else if (exit.kind == KVM_EXITS_KIND_USERSPACE && !exit.halt) {
        qemu_ns += exit.total_ns;
      }
    }
    const std::string name =
        vcpu.id < 0 ? fmt::format("tid {}", vcpu.tid) : fmt::format("{} (tid {})", vcpu.id, vcpu.tid);
    out << fmt::format("  {:<31} {:>10} {:>7.2f} {:>7.2f} {:>7.2f}\n", name, count, percent(ns, window_ns),
                       percent(qemu_ns, window_ns), percent(halt_ns, window_ns));
  }
}

// Commas and quotes in names that somebody else chose.
std::string csv_word(std::string_view text) {
  std::string out = printable(text);
  for (char& c : out)
    if (c == ',' || c == '"') c = '_';
  return out;
}

std::string vm_title(const Vm& vm) {
  return vm.name.empty() ? fmt::format("pid {}", vm.pid)
                         : fmt::format("{} (pid {})", printable(vm.name, 60), vm.pid);
}

boost::json::object exit_json(const Exit& exit) {
  boost::json::array histogram;
  std::size_t used = exit.log2_ns.size();
  while (used > 0 && exit.log2_ns[used - 1] == 0) --used;
  for (std::size_t i = 0; i < used; ++i) histogram.push_back(exit.log2_ns[i]);
  const std::string_view kind = to_string(exit.kind);
  boost::json::object out{{"kind", boost::json::string_view(kind.data(), kind.size())},
                          {"reason", exit.reason}};
  if (exit.kind == KVM_EXITS_KIND_USERSPACE)
    out["code"] = static_cast<std::int64_t>(exit.code);
  else
    out["code"] = exit.code;
  out["count"] = exit.count;
  out["timed"] = exit.timed;
  out["total_ns"] = exit.total_ns;
  out["max_ns"] = exit.max_ns;
  out["p50_ns"] = exit.percentile_ns(0.5);
  out["p99_ns"] = exit.percentile_ns(0.99);
  out["qemu_ns"] = exit.qemu_ns;
  out["halt"] = exit.halt;
  if (exit.kind == KVM_EXITS_KIND_PIO || exit.kind == KVM_EXITS_KIND_MMIO) {
    out["write"] = exit.write;
    out["device"] = exit.device.empty() ? boost::json::value(nullptr) : boost::json::value(exit.device);
    if (!exit.device.empty()) out["device_from"] = exit.from_qemu ? "qemu" : "convention";
  }
  out["log2_ns"] = std::move(histogram);
  return out;
}

}  // namespace

std::string losses_text(const bpf::KvmExitsLosses& losses) {
  std::string out;
  for (unsigned stat = 0; stat < KVM_EXITS_STATS; ++stat) {
    if (stat == KVM_EXITS_STAT_NOT_WATCHED || stat == KVM_EXITS_STAT_ADDRESSES_FULL ||
        losses.counters[stat] == 0)
      continue;
    out += fmt::format("{}{} {}", out.empty() ? "" : ", ", bpf::KvmExitsLosses::name(stat),
                       losses.counters[stat]);
  }
  return out;
}

void print_table(std::ostream& out, const Report& report, Key key, bool color) {
  const Style style{color};
  std::uint64_t vcpus = 0;
  for (const Vm& vm : report.vms) vcpus += vm.vcpus.size();
  out << fmt::format("{} VM{}, {} vCPU{} in {} ({}); lost: {}{}\n", report.vms.size(),
                     report.vms.size() == 1 ? "" : "s", vcpus, vcpus == 1 ? "" : "s",
                     short_ns(report.window_ns), kvm::to_string(report.isa), report.losses.lost(),
                     report.losses.lost() ? " (" + losses_text(report.losses) + ")" : "");
  for (const Vm& vm : report.vms) {
    const std::uint64_t whole_ns = report.window_ns * vm.vcpus.size();
    out << style.bold(vm_title(vm)) << "\n";
    print_rows(out, add_up(vm, KVM_EXITS_KIND_KVM, key), whole_ns, "EXIT", style, SIZE_MAX);
    print_rows(out, add_up(vm, KVM_EXITS_KIND_USERSPACE, key), whole_ns, "TO QEMU", style, SIZE_MAX);
    print_rows(out, add_up(vm, KVM_EXITS_KIND_PIO, key), whole_ns, "PORT", style, kAddresses);
    print_rows(out, add_up(vm, KVM_EXITS_KIND_MMIO, key), whole_ns, "MMIO", style, kAddresses);
    print_vcpus(out, vm, report.window_ns, style);
  }
  for (const std::string& note : report.notes) out << "note: " << note << "\n";
}

boost::json::object to_json(const Report& report) {
  boost::json::array probes, vms, notes;
  for (const bpf::ProbeStatus& probe : report.probes)
    probes.push_back(boost::json::object{{"name", probe.name},
                                         {"form", probe.form},
                                         {"attached", probe.attached},
                                         {"hits", probe.hits},
                                         {"error", probe.error}});
  for (const Vm& vm : report.vms) {
    boost::json::array vcpus;
    for (const Vcpu& vcpu : vm.vcpus) {
      boost::json::array exits;
      for (const Exit& exit : vcpu.exits) exits.push_back(exit_json(exit));
      vcpus.push_back(boost::json::object{
          {"vcpu", vcpu.id < 0 ? boost::json::value(nullptr) : boost::json::value(vcpu.id)},
          {"tid", vcpu.tid},
          {"exits", std::move(exits)}});
    }
    vms.push_back(boost::json::object{{"pid", vm.pid}, {"name", vm.name}, {"vcpus", std::move(vcpus)}});
  }
  boost::json::object losses;
  for (unsigned stat = 0; stat < KVM_EXITS_STATS; ++stat)
    losses[bpf::KvmExitsLosses::name(stat)] = report.losses.counters[stat];
  for (const std::string& note : report.notes) notes.push_back(boost::json::string(note));
  const std::string_view isa = kvm::to_string(report.isa);
  return {{"schema", "vmwhy.exits/1"},
          {"window_ns", report.window_ns},
          {"isa", boost::json::string_view(isa.data(), isa.size())},
          {"lost", report.losses.lost()},
          {"losses", std::move(losses)},
          {"probes", std::move(probes)},
          {"notes", std::move(notes)},
          {"vms", std::move(vms)}};
}

void print_csv_head(std::ostream& out) {
  out << "time_ns,pid,name,vcpu,tid,kind,reason,code,count,timed,total_ns,max_ns,p50_ns,p99_ns,qemu_ns,"
         "halt,device\n";
}

void print_csv(std::ostream& out, const Report& report, std::uint64_t time_ns) {
  for (const Vm& vm : report.vms) {
    const std::string name = csv_word(vm.name);
    for (const Vcpu& vcpu : vm.vcpus)
      for (const Exit& exit : vcpu.exits)
        out << fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n", time_ns, vm.pid, name,
                           vcpu.id, vcpu.tid, to_string(exit.kind), exit.reason,
                           static_cast<std::int64_t>(exit.code), exit.count, exit.timed, exit.total_ns,
                           exit.max_ns, exit.percentile_ns(0.5), exit.percentile_ns(0.99), exit.qemu_ns,
                           exit.halt ? 1 : 0, csv_word(exit.device));
  }
}

bool print_check(std::ostream& out, const bpf::Environment& environment) {
  for (const bpf::Check& check : environment.checks) {
    const char* word = check.finding == bpf::Finding::ok        ? "ok"
                       : check.finding == bpf::Finding::partial ? "partial"
                                                                : "missing";
    out << fmt::format("{:<13} {:<8} {}\n", check.name, word, check.detail);
    if (!check.remedy.empty()) out << fmt::format("{:<22} → {}\n", "", check.remedy);
  }
  return !environment.obstacle();
}

}  // namespace vmwhy::kvm_exits
