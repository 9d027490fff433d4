// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Migrations of VMs of a test's own, over QMP.

#include <initializer_list>
#include <string>
#include <string_view>

#include "tests/support/qemu.hpp"

namespace vmwhy::test {

/// Switches capabilities of the next migration on.
void enable(QemuProcess& vm, std::initializer_list<const char*> capabilities);

/// query-migrate's "status"; "": there is none.
std::string migration_status(QemuProcess& vm);
bool wait_migration(QemuProcess& vm, std::string_view status);

/// Prepares a slow post-copy from a VM that runs to one that was started with -incoming defer, in a socket of
/// this path.
void prepare_post_copy(QemuProcess& source, QemuProcess& target, const std::string& path);
/// Begins it, and cuts the link while pages are missing. False: that did not come about.
bool lose_post_copy(QemuProcess& source, QemuProcess& target, const std::string& path);

}  // namespace vmwhy::test
