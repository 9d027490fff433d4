// SPDX-License-Identifier: BSD-2-Clause
#include <unistd.h>

#include <iostream>

#include "cli/cli.hpp"
#include "tools/vm-why/vm_why.hpp"

namespace {

int body(int argc, char** argv) {
  vmwhy::vm_why::Options options;
  vmwhy::cli::Color color = vmwhy::cli::Color::automatic;
  vmwhy::cli::Parser parser("vm-why", "Says why the VMs of a trace were paused, stalled or ended");
  parser.positional("FILE", options.files, "trace files (.vmt)", true)
      .flag("--json", options.json, "one JSON document (vmwhy.verdict/1) a line and file")
      .flag("--exit-code", options.exit_code, "exit with 4 where an incident was found")
      .text("--vm", options.vm, "VM", "only this VM: its name, uuid, pid or number in the trace")
      .number("--incident", options.incident, "N", "only this incident", 1)
      .text("--debug-dir", options.debug_dir, "DIR",
            "name frames of QEMU's stacks again by executables and debug files in DIR")
      .color(color)
      .examples(
          "  vm-why bug.vmt\n"
          "  vm-why --json bug.vmt | jq '.incidents[].cause'\n"
          "  vm-why --vm web1 --incident 3 bug.vmt");
  if (const auto code = parser.parse(argc, argv, std::cout, std::cerr)) return *code;
  options.color = vmwhy::cli::use_color(color, STDOUT_FILENO);
  return vmwhy::vm_why::run(options, std::cout, std::cerr);
}

}  // namespace

int main(int argc, char** argv) {
  return vmwhy::cli::guarded("vm-why", body, argc, argv);
}
