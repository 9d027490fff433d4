/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which storage requests of watched processes failed, were short or slow, and which are under way; and which
 * requests of the block layer failed.
 *
 * A request under way takes a slot of a fixed table by compare-and-swap, found again through its thread's id:
 * nothing is inserted into a map, nothing takes a lock. Successes leave no trace but their slot's. */

#include "bpf/probes/io_ledger/block.bpf.h"
#include "bpf/probes/io_ledger/calls.bpf.h"
#include "bpf/probes/io_ledger/uring.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
