// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/proto/allow_list.hpp"

#include <algorithm>
#include <array>

namespace vmwhy::qmp::proto {
namespace {

// Sorted. Not here although they begin with query-: query-cpu-model-expansion and its kin take arguments that
// build CPU objects, and query-sev-attestation-report talks to the secure processor. Asked of a device that
// another process serves, x-query-virtio-queue-status would stop that queue: who asks it must know the
// device.
constexpr std::string_view kReadOnly[] = {
    "qmp_capabilities",
    "qom-get",
    "qom-list",
    "query-acpi-ospm-status",
    "query-balloon",
    "query-block",
    "query-block-exports",
    "query-block-jobs",
    "query-blockstats",
    "query-chardev",
    "query-command-line-options",
    "query-commands",
    "query-cpu-definitions",
    "query-cpus-fast",
    "query-current-machine",
    "query-dirty-rate",
    "query-dump",
    "query-fdsets",
    "query-hotpluggable-cpus",
    "query-iothreads",
    "query-jobs",
    "query-kvm",
    "query-machines",
    "query-memdev",
    "query-memory-devices",
    "query-memory-size-summary",
    "query-migrate",
    "query-migrate-capabilities",
    "query-migrate-parameters",
    "query-name",
    "query-named-block-nodes",
    "query-pci",
    "query-qmp-schema",
    "query-replay",
    "query-rx-filter",
    "query-status",
    "query-target",
    "query-uuid",
    "query-vcpu-dirty-limit",
    "query-version",
    "query-vnc",
    "query-xen-replication-status",
    "query-yank",
    "x-query-virtio-queue-status",
};
static_assert(std::is_sorted(std::begin(kReadOnly), std::end(kReadOnly)));

}  // namespace

bool on_allow_list(std::string_view command) {
  return std::binary_search(std::begin(kReadOnly), std::end(kReadOnly), command);
}

bool on_allow_list(std::string_view command, const boost::json::object& arguments) {
  if (command != "human-monitor-command") return on_allow_list(command);
  const boost::json::value* line = arguments.if_contains("command-line");
  if (arguments.size() != 1 || line == nullptr || !line->is_string()) return false;
  return line->get_string() == "info mtree" || line->get_string() == "info mtree -f";
}

}  // namespace vmwhy::qmp::proto
