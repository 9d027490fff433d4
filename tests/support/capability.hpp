// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What this machine can do, probed for real, once per process. A test skips only by VMWHY_NEEDS, so that
// whoever runs the tests can hold each skip against the machine: `TEST-BINARY --capability NAME` exits 0 when
// NAME is there; otherwise it prints the reason and exits 1.

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

namespace vmwhy::test {

/// Every name that VMWHY_NEEDS knows.
std::vector<std::string_view> capability_names();

/// Empty: this machine has it. Otherwise the reason why not, one line. A name nobody knows is never there.
const std::string& capability_missing(std::string_view name);

/// Serves `--capability NAME` and `--capabilities`. Returns the exit status, or -1: not asked.
int capability_option(int argc, char** argv);

}  // namespace vmwhy::test

/// Skips the test unless this machine has `name`: VMWHY_NEEDS(kvm);
#define VMWHY_NEEDS(name)                                                                   \
  do {                                                                                      \
    const std::string& vmwhy_missing = ::vmwhy::test::capability_missing(#name);            \
    if (!vmwhy_missing.empty()) GTEST_SKIP() << "needs " << #name << ": " << vmwhy_missing; \
  } while (false)
