// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What the storage rules share.

#include "causes/rule.hpp"

namespace vmwhy::causes {

/// "write to node 'disk0' (/var/lib/x.qcow2 on tmpfs /mnt)".
std::string request_text(const Case& c);
/// A finding with what every storage verdict carries: the error, the file, the node's details.
Finding storage_finding(const Case& c, Confidence confidence);
/// Whether the host's look at the file was made while the incident's state still held.
bool looked_at_the_time(const Case& c);
bool is_block_device(const timeline::NodeFile& file);
/// Bytes that QEMU may still take: what root may, where QEMU is root's.
std::uint64_t free_for_qemu(const Case& c, const timeline::NodeFile& file);
/// Below this a file system counts as full for an image: a request, or the allocation that it needs, may be
/// larger than what is left.
constexpr std::uint64_t kNoRoom = 1u << 20;
/// The file system may be out of room for QEMU.
bool file_system_full(const Case& c);
/// The device under QEMU's descriptor is dead (no size, or no longer known to the kernel).
bool device_dead(const Case& c);
/// The path names another device than QEMU's descriptor.
bool device_replaced(const Case& c);
/// The file lies on a server: NFS, SMB, Ceph, …
bool network_file_system(const timeline::NodeFile* file);
/// What backs a device under the file said that it has no space.
bool nospace_below(const Case& c);
/// Kernel log lines near the error that name one of the incident's devices.
std::vector<const timeline::KernelLine*> device_lines(const Case& c);
/// What the kernel said from `from` to `until` of a connection that its own client (nbd, NFS) under this file
/// lost.
std::vector<const timeline::KernelLine*> connection_lines(const Case& c, const timeline::NodeFile& file,
                                                          std::uint64_t from, std::uint64_t until);
/// "nbd", "iscsi", "nfs4"; empty: the file lies on this host.
std::string kernel_client(const timeline::NodeFile& file);
/// No disk of this host is under the file, or beside the other machine's (a mirror).
bool only_remote(const timeline::NodeFile& file);
/// Why no failed request of the block layer stands in evidence, as a clause.
std::string why_no_block_failure(const Case& c);
/// Likewise no system call that is under way.
std::string why_no_call_under_way(const Case& c);
/// What became of the monitor's connection in the incident: replies that are overdue, and others.
void add_monitor_evidence(const Case& c, Finding& finding);
/// How it stood with a connection to a storage server.
Evidence link_evidence(const timeline::StorageLink& link);
/// What is known of the connection when a request to a server failed at `told_ns`: lost, or standing.
void add_link_of_error(const Case& c, std::uint64_t told_ns, Finding& finding);
/// Whether TCP had trouble in the incident's time.
void add_link_quality(const Case& c, Finding& finding);
/// A wait channel or a kernel stack lies within the kernel's storage: file systems, page cache, block layer.
bool in_storage(std::string_view kernel_functions);

}  // namespace vmwhy::causes
