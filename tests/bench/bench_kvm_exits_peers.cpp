// SPDX-License-Identifier: BSD-2-Clause
// kvm-exits beside bpftrace and perf on the same exits: kvm_exits_peers.sh on this host where its KVM fires
// kvm_exit, in the lab otherwise. Passes the script's figures on.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>

#include "tests/bench/bench.hpp"
#include "tests/support/capability.hpp"

namespace vmwhy::bench {
namespace {

bool kvm_exit_fires_here() {
  return test::capability_missing("kvm").empty() && test::capability_missing("bpf").empty() &&
         ::access("/sys/module/kvm_pvm", F_OK) != 0 &&
         ::access("/sys/kernel/tracing/events/kvm/kvm_exit", F_OK) == 0;
}

VMWHY_BENCH(kvm_exits_peers) {
  if (report.needs("qemu")) return;
  const char* bins = std::getenv("VMWHY_BIN_DIR");
  const char* guests = std::getenv("VMWHY_GUEST_DIR");
  if (bins == nullptr || guests == nullptr)
    throw std::runtime_error("VMWHY_BIN_DIR and VMWHY_GUEST_DIR are not set");
  const std::string command = kvm_exit_fires_here()
                                  ? "PATH='" + std::string(bins) +
                                        "':$PATH:/usr/sbin sh tests/bench/kvm_exits_peers.sh '" + guests +
                                        "/port_storm.rom' ns"
                                  : std::string("scripts/lab --bench");
  const std::unique_ptr<FILE, int (*)(FILE*)> output(::popen(command.c_str(), "r"), ::pclose);
  if (!output) throw std::runtime_error("cannot run " + command);
  std::string line;
  int figures = 0;
  for (int c = 0; (c = std::fgetc(output.get())) != EOF;) {
    if (c != '\n') {
      line += static_cast<char>(c);
      continue;
    }
    if (line.rfind("{\"bench\":", 0) == 0) {
      std::cout << line << std::endl;
      ++figures;
    }
    line.clear();
  }
  if (figures == 0) throw std::runtime_error("no figures from: " + command);
}

}  // namespace
}  // namespace vmwhy::bench
